"""Adapters against none: tokens/s and time to first token of requests in flight, by the number of distinct adapters; on a CPU
also with the LoRA that vLLM's CPU build has of its own (asked directly, without the service).

    python -m bench.adapters

Rounds are interleaved (none, 1, none, 8, none, 64, none, stock, ...); a ratio is the median of those with the round before.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.common import Benchmark, Profile, main, median, paired_ratio
from bench.load import Answer, at_once, contextualize, document, question
from bench.stack import Stack, stock_engine
from service.children import is_cpu_build
from service.client import unpack_peft

NONE = "0"
STOCK = "stock LoRA"
# Before each round: threads of the engine that was busy last spin for a while.
_PAUSE_S = 1.0


@dataclass(frozen=True)
class Sizes:
    adapters: tuple[int, ...]  # distinct ones; 0 comes first
    stock: int  # distinct ones for vLLM's own CPU LoRA
    requests: int  # in flight
    tokens: int  # of each answer
    rounds: int
    document_tokens: int = 256


@dataclass(frozen=True)
class Way:
    """A server, and what is sent to it at once: (model, prompt)."""

    client: httpx.AsyncClient
    load: list[tuple[str, str]]


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    assert stack is not None
    texts = [document(10_000 + i, sizes.document_tokens) for i in range(max(sizes.adapters))]
    ids = [(await contextualize(stack.client, text))["id"] for text in texts]
    async with _stock(stack, ids[: sizes.stock]) as stock:
        ways = {str(count): Way(stack.client, _load(stack.model, ids[:count], sizes)) for count in sizes.adapters}
        if stock is not None:
            ways[f"{sizes.stock}, {STOCK}"] = Way(stock, _load(stack.model, ids[: sizes.stock], sizes))
        for way in ways.values():  # brings every adapter into the engine, and warms it up
            await at_once(way.client, way.load, 4)
        none = ways.pop(NONE)
        rates: dict[str, list[float]] = {name: [] for name in (NONE, *ways)}
        answers: dict[str, list[Answer]] = {name: [] for name in rates}
        for number, name in itertools.product(range(sizes.rounds), ways):
            for asked, way in ((NONE, none), (name, ways[name])):
                await asyncio.sleep(_PAUSE_S)
                rate, found = await at_once(way.client, _turn(way.load, number, sizes.requests), sizes.tokens)
                rates[asked].append(rate)
                answers[asked] += found
    return {
        "requests": sizes.requests,
        "tokens": sizes.tokens,
        "rounds": sizes.rounds,
        "by_adapters": {
            name: {
                "tokens_per_s": median(rates[name]),
                "first_token_s": median([a.first_token_s for a in answers[name]]),
                "over_none": paired_ratio(rates[name], before),
            }
            for name, before in [
                (NONE, rates[NONE]),
                *((name, rates[NONE][i :: len(ways)]) for i, name in enumerate(ways)),
            ]
        },
    }


def _load(model: str, adapters: list[str], sizes: Sizes) -> list[tuple[str, str]]:
    """As many as are in flight, and more where that is what every adapter needs to be asked once."""
    models = adapters or [model]
    return [(models[i % len(models)], question(i)) for i in range(max(sizes.requests, min(len(models), 64)))]


def _turn(load: list[tuple[str, str]], number: int, requests: int) -> list[tuple[str, str]]:
    """What is in flight in one round: the next ones, so that every adapter has its turn."""
    start = number * requests % len(load)
    return (load + load)[start : start + requests]


@contextlib.asynccontextmanager
async def _stock(stack: Stack, ids: list[str]) -> AsyncIterator[httpx.AsyncClient | None]:
    """An engine without our plugin that has loaded these adapters; None where vLLM's LoRA is the one that we use as well."""
    if not is_cpu_build():
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="genadapter-stock-") as root:
        folders = {name: Path(root, name) for name in ids}
        for name, folder in folders.items():
            archive = await stack.client.get(f"/adapters/{name}/peft")
            unpack_peft(archive.raise_for_status().content, folder)
        async with stock_engine(folders) as client:
            yield client


def summary(results: dict[str, Any]) -> dict[str, float]:
    found = results["by_adapters"]
    return {f"tokens_per_s_{n}_adapters_over_base": found[str(n)]["over_none"] for n in (8, 64) if str(n) in found}


BENCHMARK = Benchmark(
    "adapters",
    __doc__,
    Profile(
        cpu=Sizes((0, 1, 8, 64), stock=8, requests=32, tokens=64, rounds=7),
        gpu=Sizes((0, 1, 8, 64), stock=8, requests=128, tokens=128, rounds=9),
        quick=Sizes((0, 2), stock=2, requests=4, tokens=4, rounds=1),
    ),
    measure,
    ("adapters", "tokens/s", "first token, s", "tokens/s over none"),
    lambda results: [
        (n, r["tokens_per_s"], r["first_token_s"], r["over_none"]) for n, r in results["by_adapters"].items()
    ],
    summary,
)

if __name__ == "__main__":
    main(BENCHMARK)
