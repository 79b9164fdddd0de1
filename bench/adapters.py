"""Adapters against none: tokens/s and time to first token of requests in flight, by the number of distinct adapters.

    python -m bench.adapters

Rounds are interleaved (none, 1, 8, 64, none, ...) and compared within the run; the figures are medians over rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.common import Benchmark, Profile, main, median
from bench.load import Answer, at_once, contextualize, document, question
from bench.stack import Stack


@dataclass(frozen=True)
class Sizes:
    adapters: tuple[int, ...]  # distinct ones; 0 comes first
    requests: int  # in flight
    tokens: int  # of each answer
    rounds: int
    document_tokens: int = 256


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    assert stack is not None
    texts = [document(10_000 + i, sizes.document_tokens) for i in range(max(sizes.adapters))]
    ids = [(await contextualize(stack.client, text))["id"] for text in texts]
    loads = {
        count: [
            (ids[i % count] if count else stack.model, question(i)) for i in range(max(sizes.requests, min(count, 64)))
        ]
        for count in sizes.adapters
    }
    for load in loads.values():  # brings every adapter into the engine, and warms it up
        await at_once(stack.client, load, 4)
    rates: dict[int, list[float]] = {count: [] for count in loads}
    answers: dict[int, list[Answer]] = {count: [] for count in loads}
    for _ in range(sizes.rounds):
        for count, load in loads.items():
            rate, found = await at_once(stack.client, load[: sizes.requests], sizes.tokens)
            rates[count].append(rate)
            answers[count] += found
    none = median(rates[0])
    return {
        "requests": sizes.requests,
        "tokens": sizes.tokens,
        "rounds": sizes.rounds,
        "by_adapters": {
            str(count): {
                "tokens_per_s": median(rates[count]),
                "first_token_s": median([a.first_token_s for a in answers[count]]),
                "over_none": median(rates[count]) / none,
            }
            for count in loads
        },
    }


def summary(results: dict[str, Any]) -> dict[str, float]:
    found = results["by_adapters"]
    return {f"tokens_per_s_{n}_adapters_over_base": found[str(n)]["over_none"] for n in (8, 64) if str(n) in found}


BENCHMARK = Benchmark(
    "adapters",
    __doc__,
    Profile(
        cpu=Sizes((0, 1, 8, 64), requests=32, tokens=32, rounds=5),
        gpu=Sizes((0, 1, 8, 64), requests=128, tokens=128, rounds=5),
        quick=Sizes((0, 2), requests=4, tokens=4, rounds=1),
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
