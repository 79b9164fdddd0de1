"""What is sent: documents of about so many tokens, each of its own, and questions, with the times of their answers."""

from __future__ import annotations

import asyncio
import json
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

# Ordinary prose: a document's cost depends on how many different words it has.
_WORDS = re.findall(r"[A-Za-z]+", (Path(__file__).parents[1] / "LICENSE").read_text().split("END OF TERMS")[0])
# Tokens of one such word in SmolLM2's vocabulary: measured, and only a guess elsewhere.
_TOKENS_PER_WORD = 1.133


def document(seed: int, tokens: int) -> str:
    """Text of about `tokens` tokens; no two seeds share a beginning, so that no prefix cache knows it."""
    rng = random.Random(seed)
    words = rng.choices(_WORDS, k=int(tokens / _TOKENS_PER_WORD))
    sentences = [" ".join(words[i : i + 12]).capitalize() + "." for i in range(0, len(words), 12)]
    return f"Report {seed}. " + " ".join(sentences)


async def contextualize(client: httpx.AsyncClient, text: str, **options: Any) -> dict[str, Any]:
    """The service's answer for one document. Raises httpx.HTTPStatusError."""
    response = await client.post("/contextualize", json={"text": text, **options})
    response.raise_for_status()
    body: dict[str, Any] = response.json()
    return body


@dataclass(frozen=True)
class Answer:
    """Times in seconds."""

    first_token_s: float
    total_s: float
    tokens: int
    prompt_tokens: int


def _completion(model: str, prompt: str, tokens: int, seed: int) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "min_tokens": tokens,
        "temperature": 1.0,
        "seed": seed,
    }


async def complete(client: httpx.AsyncClient, model: str, prompt: str, tokens: int, seed: int = 0) -> Answer:
    """The same answer as `ask` gets, whole: its first token is there when all are."""
    begin = time.perf_counter()
    response = await client.post("/v1/completions", json=_completion(model, prompt, tokens, seed))
    if response.status_code != 200:
        raise RuntimeError(f"status {response.status_code}: {response.text[:300]}")
    usage = response.json()["usage"]
    spent = time.perf_counter() - begin
    return Answer(spent, spent, usage["completion_tokens"], usage["prompt_tokens"])


async def ask(client: httpx.AsyncClient, model: str, prompt: str, tokens: int, seed: int = 0) -> Answer:
    """One streamed completion of exactly `tokens` tokens, of the service or of the engine (OpenAI's API)."""
    body = {
        **_completion(model, prompt, tokens, seed),
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    begin, first, usage = time.perf_counter(), 0.0, {"completion_tokens": 0, "prompt_tokens": 0}
    async with client.stream("POST", "/v1/completions", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"status {response.status_code}: {(await response.aread()).decode()[:300]}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - begin
                usage = json.loads(line[6:]).get("usage") or usage
    return Answer(first, time.perf_counter() - begin, usage["completion_tokens"], usage["prompt_tokens"])


async def at_once(
    client: httpx.AsyncClient, requests: Sequence[tuple[str, str]], tokens: int, stream: bool = True
) -> tuple[float, list[Answer]]:
    """Every (model, prompt) in flight together: tokens/s of all, and each answer."""
    begin = time.perf_counter()
    one = ask if stream else complete
    answers = await asyncio.gather(
        *(one(client, model, prompt, tokens, seed) for seed, (model, prompt) in enumerate(requests))
    )
    return sum(answer.tokens for answer in answers) / (time.perf_counter() - begin), list(answers)


_TOPICS = (
    "river",
    "stone",
    "lantern",
    "copper",
    "orchard",
    "signal",
    "harbour",
    "violet",
    "engine",
    "meadow",
    "archive",
)


def question(number: int) -> str:
    return f"Question {number}: what is said of the {_TOPICS[number % len(_TOPICS)]}?\nAnswer:"
