"""Adapters against none: tokens/s and time to first token of many requests in flight, by the number of distinct adapters.

    python -m bench.adapters --adapters 0 1 4 8

Rounds are interleaved (none, 1, 4, ..., none, 1, 4, ...) and compared within the run; the figures are medians over rounds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from dataclasses import dataclass
from typing import Any

import httpx

from bench.common import contextualize, median, service, table, write_results

WORDS = [
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
    "thunder",
    "candle",
    "bridge",
]


@dataclass
class Round:
    tokens_per_s: float
    first_token_s: float  # median over the requests


def document(number: int) -> str:
    """A text of its own for each number, some 300 words."""
    sentences = (
        f"The {WORDS[(number + i) % 14]} of section {number * 31 + i} was moved to the {WORDS[(number * 5 + i * 3) % 14]} "
        f"by team {number % 97} in the year {1500 + (number * 7 + i * 13) % 500}."
        for i in range(18)
    )
    return " ".join(sentences)


async def run_round(client: httpx.AsyncClient, ids: list[str | None], requests: int, tokens: int) -> Round:
    """`requests` at once, spread over the adapters."""
    begin = time.perf_counter()
    results = await asyncio.gather(*(_ask(client, ids[i % len(ids)], i, tokens) for i in range(requests)))
    seconds = time.perf_counter() - begin
    return Round(sum(count for count, _ in results) / seconds, median([first for _, first in results]))


async def _ask(client: httpx.AsyncClient, adapter_id: str | None, number: int, tokens: int) -> tuple[int, float]:
    body = {
        "adapter_id": adapter_id,
        "prompt": f"Question {number}: what was moved to the {WORDS[number % 14]}?\nAnswer:",
        "max_tokens": tokens,
        "temperature": 1.0,
        "seed": number,
        "stream": True,
    }
    begin, first, usage = time.perf_counter(), 0.0, 0
    async with client.stream("POST", "/generate", json=body) as response:
        if response.status_code != 200:
            raise RuntimeError(f"/generate answered {response.status_code}: {(await response.aread()).decode()}")
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                first = first or time.perf_counter() - begin
                usage = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", usage)
    return usage, first


async def measure(url: str | None, counts: list[int], requests: int, tokens: int, rounds: int) -> dict[str, Any]:
    async with service(url) as client:
        made = [(await contextualize(client, document(i)))["id"] for i in range(max(counts))]
        ids: dict[int, list[str | None]] = {count: list(made[:count]) or [None] for count in counts}
        for count in counts:  # loads every adapter and warms the engine up
            await run_round(client, ids[count], max(requests, count), 4)
        taken: dict[int, list[Round]] = {count: [] for count in counts}
        for _ in range(rounds):
            for count in counts:
                taken[count].append(await run_round(client, ids[count], requests, tokens))
    none = median([r.tokens_per_s for r in taken[counts[0]]])
    return {
        "requests": requests,
        "tokens": tokens,
        "rounds": rounds,
        "by_adapters": {
            str(count): {
                "tokens_per_s": median([r.tokens_per_s for r in found]),
                "first_token_s": median([r.first_token_s for r in found]),
                "over_none": median([r.tokens_per_s for r in found]) / none,
            }
            for count, found in taken.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="a running service; one is started otherwise")
    parser.add_argument("--adapters", type=int, nargs="+", default=[0, 4], help="numbers of distinct adapters")
    parser.add_argument("--requests", type=int, default=32, help="in flight at once")
    parser.add_argument("--tokens", type=int, default=32, help="generated for each request")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    counts = [0, *sorted(set(args.adapters) - {0})]
    results = asyncio.run(measure(args.url, counts, args.requests, args.tokens, args.rounds))
    rows = [(n, r["tokens_per_s"], r["first_token_s"], r["over_none"]) for n, r in results["by_adapters"].items()]
    print(table(("adapters", "tokens/s", "first token, s", "tokens/s over none"), rows))
    print(write_results("adapters", results))


if __name__ == "__main__":
    main()
