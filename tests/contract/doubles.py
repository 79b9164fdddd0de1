"""Stand-ins for the two parts that need a model: the generator and vLLM. Only their edges are theirs; all else is real."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from service.backend import Identity
from service.errors import AdapterDamaged

MODEL = "tiny-model"
BASE_FINGERPRINT = "b" * 64
GENERATOR_FINGERPRINT = "c" * 64
IDENTITY = Identity(MODEL, BASE_FINGERPRINT, GENERATOR_FINGERPRINT)
# Words that make the doubles misbehave.
POISON = "xyzzypoison"
# In the middle of a stream.
PAUSES_S = {"slow": 20, "unhurried": 1}


def token_of(word: str) -> int:
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:3], "little")


@dataclass
class FakeAdapter:
    ids: tuple[int, ...]
    tokens: int
    chunks: int = 1
    rank: int = 4

    def to_bytes(self) -> bytes:
        return b"factors:" + json.dumps(self.ids).encode()


class FakeBackend:
    """A word is a token; an adapter is its token ids."""

    fingerprint = GENERATOR_FINGERPRINT
    base_fingerprint = BASE_FINGERPRINT
    default_strategy = "concat"
    batch_tokens = 8_192

    def __init__(self) -> None:
        self.begun = 0  # passes, before the door
        self.batches: list[list[int]] = []  # after it
        self.open = threading.Event()
        self.open.set()

    def tokenize(self, text: str) -> list[int]:
        return [token_of(word) for word in text.split()]

    def encode(
        self,
        documents: Sequence[Sequence[int]],
        strategy: str,
        states: Sequence[tuple[int, ...] | None] | None = None,
        on_chunk: Callable[[], None] | None = None,
    ) -> list[tuple[int, ...]]:
        self.begun += 1
        self.open.wait(30)
        if on_chunk is not None:
            on_chunk()
        self.batches.append([len(ids) for ids in documents])
        if any(token_of(POISON) in ids for ids in documents):
            raise RuntimeError(f"secret detail of {strategy}")
        return [(*(before or ()), *ids) for ids, before in zip(documents, states or [()] * len(documents), strict=True)]

    def dump_state(self, state: tuple[int, ...]) -> bytes:
        return json.dumps(state).encode()

    def load_state(self, data: bytes) -> tuple[int, ...]:
        try:
            return tuple(json.loads(data))
        except ValueError as error:
            raise AdapterDamaged("state") from error

    def factorize(self, states: Sequence[tuple[int, ...]]) -> list[FakeAdapter]:
        return [FakeAdapter(ids, len(ids)) for ids in states]


class FakeEngine:
    """vLLM's OpenAI server as far as the service sees it. The prompt's first word chooses what happens."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.cancelled = 0
        self.paths: list[str] = []  # of all requests but those for health
        self.app = Starlette(
            routes=[
                Route("/health", lambda _: Response()),
                Route("/v1/models", self.models),
                Route("/v1/completions", self.complete, methods=["POST"]),
                Route("/v1/chat/completions", self.complete, methods=["POST"]),
                Route("/{anything:path}", self.anything, methods=["GET", "POST", "PUT", "DELETE"]),
            ]
        )

    async def anything(self, request: Request) -> Response:
        """vLLM has many more routes, which nobody should reach."""
        self.paths.append(request.url.path)
        return JSONResponse({"done": True})

    async def models(self, request: Request) -> Response:
        return JSONResponse({"object": "list", "data": [{"id": MODEL, "parent": None}]})

    async def complete(self, request: Request) -> Response:
        body = await request.json()
        self.requests.append(body)
        self.paths.append(request.url.path)
        self.headers.append(dict(request.headers))
        prompt = body.get("prompt") or body["messages"][-1]["content"]
        word = (prompt.split() or [""])[0]
        if word == "toolong":
            message = "This model's maximum context length is 8 tokens.\nsecret second line"
            return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": 400}}, 400)
        if word == "unloadable":
            message = f"LoRA adapter '{body['model']}' was found but could not be loaded."
            return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": 400}}, 400)
        if word == "uncompilable":
            error = {"message": "Internal server error", "type": "InternalServerError", "code": 500}
            return JSONResponse({"error": error}, 500)
        if word == "crowded":
            error = {"message": "Too many requests wait.", "type": "RateLimitError", "code": 429}
            return JSONResponse({"error": error}, 429)
        if word == "rotten":
            error = {"message": AdapterDamaged.public, "type": "InternalServerError", "code": 500}
            return JSONResponse({"error": error}, 500)
        if word == "explode":
            error = {"message": "EngineDeadError at /secret/path", "type": "InternalServerError", "code": 500}
            return JSONResponse({"error": error}, 500)
        chat = request.url.path.endswith("chat/completions")
        if not body.get("stream"):
            if word == "slow":
                await self._wait(request)
            text = "Hello wörld"
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
            choice["logprobs"] = _logprobs(text, chat) if body.get("logprobs") else None
            choices = [{"index": 0, "finish_reason": "stop", "token_ids": [5, 7], **choice}]
            return JSONResponse({"object": "whole", "model": body["model"], "choices": choices, "x_extra": "kept"})
        return StreamingResponse(self._chunks(request, body, word, chat), media_type="text/event-stream")

    async def _wait(self, request: Request) -> None:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if await request.is_disconnected():
                self.cancelled += 1
                return
            await asyncio.sleep(0.02)

    async def _chunks(self, request: Request, body: dict[str, Any], word: str, chat: bool) -> AsyncIterator[str]:
        def event(**fields: Any) -> str:
            return f"data: {json.dumps({'id': 'x', 'model': body['model'], **fields})}\n\n"

        try:
            if chat:
                yield event(choices=[{"index": 0, "delta": {"role": "assistant", "content": ""}}])
            for index in range(body.get("n", 1)):
                for text in ("Hello", " wörld"):
                    choice: dict[str, Any] = {"index": index, "finish_reason": None}
                    choice |= {"delta": {"content": text}} if chat else {"text": text}
                    if body.get("logprobs"):
                        choice["logprobs"] = _logprobs(text, chat)
                    yield event(choices=[choice])
                if word in PAUSES_S:
                    await asyncio.sleep(PAUSES_S[word])
                if word == "midway":
                    yield event(error={"message": "secret", "code": 500})
                    return
                if word == "cutoff":
                    return
                last = {"index": index, "finish_reason": "stop"}
                yield event(choices=[last | ({"delta": {}} if chat else {"text": ""})])
            usage = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
            yield event(choices=[], usage=usage)
            yield "data: [DONE]\n\n"
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled += 1
            raise


def _logprobs(token: str, chat: bool) -> dict[str, Any]:
    if chat:
        top = {"token": token, "logprob": -0.5, "bytes": []}
        return {"content": [top | {"top_logprobs": [top]}]}
    return {"tokens": [token], "token_logprobs": [-0.5], "top_logprobs": [{token: -0.5}], "text_offset": [0]}
