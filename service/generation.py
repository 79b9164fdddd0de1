"""POST /generate in terms of vLLM: the request that is sent, and its stream of chunks read into texts."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from service.engine import EngineClient, error_object, upstream_error
from service.errors import EngineUnavailable
from service.metrics import Metrics
from service.schemas import GenerateRequest

DONE = b"[DONE]"
# vLLM's `stream_interval`: events after the first token's, in tokens. Longer than any answer: the rest comes in one.
ONE_REST = 1_000_000
SAMPLING = ("max_tokens", "temperature", "top_p", "top_k", "stop", "seed", "n")


def engine_request(request: GenerateRequest, model: str) -> tuple[str, dict[str, Any]]:
    """Path and body. Always streamed: the first token is timed then, and a caller who leaves is noticed.

    A caller who takes no stream costs two events, not one for each token on the cores that the engine computes on.
    """
    body: dict[str, Any] = {name: value for name in SAMPLING if (value := getattr(request, name)) is not None}
    body |= {"model": model, "stream": True, "stream_options": {"include_usage": True}}
    if not request.stream:
        body["stream_interval"] = ONE_REST
    if request.prompt is not None:
        return "/v1/completions", body | {"prompt": request.prompt, "logprobs": request.logprobs}
    messages = [message.model_dump() for message in request.messages or []]
    if request.logprobs is not None:
        body |= {"logprobs": True, "top_logprobs": request.logprobs}
    return "/v1/chat/completions", body | {"messages": messages}


@dataclass(frozen=True)
class Piece:
    """What one chunk adds to one choice."""

    index: int
    text: str
    finish_reason: str | None
    logprobs: list[dict[str, Any]] | None

    def public(self, with_logprobs: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": self.index, "text": self.text, "finish_reason": self.finish_reason}
        return choice | {"logprobs": {"content": self.logprobs or []}} if with_logprobs else choice


@dataclass
class Answer:
    """What has come in so far."""

    begin_s: float = field(default_factory=time.perf_counter)
    first_token_s: float | None = None
    usage: dict[str, int] | None = None
    choices: dict[int, dict[str, Any]] = field(default_factory=dict)

    def add(self, piece: Piece) -> None:
        if self.first_token_s is None and (piece.text or piece.finish_reason):
            self.first_token_s = time.perf_counter()
        choice = self.choices.setdefault(piece.index, {"text": [], "finish_reason": None, "logprobs": []})
        choice["text"].append(piece.text)
        choice["logprobs"] += piece.logprobs or []
        choice["finish_reason"] = piece.finish_reason or choice["finish_reason"]

    def pieces(self) -> list[Piece]:
        return [
            Piece(index, "".join(choice["text"]), choice["finish_reason"], choice["logprobs"])
            for index, choice in sorted(self.choices.items())
        ]

    def timings_ms(self, resolve_ms: float) -> dict[str, float | None]:
        first = None if self.first_token_s is None else (self.first_token_s - self.begin_s) * 1000
        return {"resolve": resolve_ms, "first_token": first, "total": (time.perf_counter() - self.begin_s) * 1000}

    def observe(self, metrics: Metrics, adapter_id: str | None) -> None:
        label = "with" if adapter_id else "without"
        if self.first_token_s is not None:
            metrics.first_token_seconds.labels(label).observe(self.first_token_s - self.begin_s)
        metrics.generate_seconds.labels(label).observe(time.perf_counter() - self.begin_s)
        for kind in ("prompt", "completion"):
            metrics.completion_tokens.labels(kind).inc((self.usage or {}).get(f"{kind}_tokens", 0))


async def read_pieces(
    engine: EngineClient, response: aiohttp.ClientResponse, answer: Answer, adapter_id: str | None
) -> AsyncIterator[list[Piece]]:
    """The pieces of each chunk, added to `answer` on the way. Raises upstream's error, EngineUnavailable when it
    breaks off."""
    done = False
    async for line in engine.lines(response):
        if not line.startswith(b"data:"):
            continue
        data = line.removeprefix(b"data:").strip()
        if data == DONE:
            # Read to the last byte: a connection that is left before it cannot be used again, and the engine takes the
            # request for abandoned.
            done = True
            continue
        chunk = json.loads(data)
        if "error" in chunk:
            error = error_object(data)
            code = error.get("code")
            raise upstream_error(code if isinstance(code, int) else EngineUnavailable.status, error, adapter_id)
        if chunk.get("usage"):
            answer.usage = {
                name: chunk["usage"][name] for name in ("prompt_tokens", "completion_tokens", "total_tokens")
            }
        pieces = [_piece(choice) for choice in chunk["choices"]]
        for piece in pieces:
            answer.add(piece)
        if pieces:
            yield pieces
    if not done:
        raise EngineUnavailable("the engine's stream broke off")


def _piece(choice: dict[str, Any]) -> Piece:
    text = choice["delta"].get("content") if "delta" in choice else choice["text"]
    return Piece(choice["index"], text or "", choice.get("finish_reason"), _logprobs(choice.get("logprobs")))


def _logprobs(found: dict[str, Any] | None) -> list[dict[str, Any]] | None:
    """The chat form (a list of tokens, each with its alternatives) for both of the engine's forms."""
    if found is None:
        return None
    if "content" in found:
        return [
            {
                "token": item["token"],
                "logprob": item["logprob"],
                "top_logprobs": [
                    {"token": top["token"], "logprob": top["logprob"]} for top in item.get("top_logprobs") or []
                ],
            }
            for item in found["content"] or []
        ]
    alternatives = found.get("top_logprobs") or [None] * len(found["tokens"])
    return [
        {
            "token": token,
            "logprob": logprob,
            "top_logprobs": [{"token": name, "logprob": value} for name, value in (tops or {}).items()],
        }
        for token, logprob, tops in zip(found["tokens"], found["token_logprobs"], alternatives, strict=True)
    ]
