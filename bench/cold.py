"""Cold adapters: the time to first token of an adapter that lies in Redis alone, against the same one warm; and of a working
set larger than the engine keeps in memory (`max_cpu_loras`).

    python -m bench.cold
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.common import Benchmark, Profile, main, median, quantile
from bench.load import ask, contextualize, document, question
from bench.stack import Stack


@dataclass(frozen=True)
class Sizes:
    adapters: int
    working_set: int
    rounds: int  # through the working set


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    assert stack is not None
    await ask(stack.client, stack.model, question(0), 2)
    ids = [(await contextualize(stack.client, document(40_000 + i, 96)))["id"] for i in range(sizes.working_set)]
    warm, cold = [], []
    for number, adapter in enumerate(ids[: sizes.adapters]):
        cold.append((await ask(stack.client, adapter, question(number), 2)).first_token_s * 1000)
        warm.append((await ask(stack.client, adapter, question(number + 1), 2)).first_token_s * 1000)
    rotating = [
        (await ask(stack.client, adapter, question(number), 2)).first_token_s * 1000
        for _ in range(sizes.rounds)
        for number, adapter in enumerate(ids)
    ]
    return {
        "first_token_ms": {
            "cold": {"median": median(cold), "p99": quantile(cold, 0.99)},
            "warm": {"median": median(warm), "p99": quantile(warm, 0.99)},
            f"rotation of {sizes.working_set}": {"median": median(rotating), "p99": quantile(rotating, 0.99)},
        },
        "cold_minus_warm_ms": median([c - w for c, w in zip(cold, warm, strict=True)]),
    }


BENCHMARK = Benchmark(
    "cold",
    __doc__,
    Profile(
        cpu=Sizes(adapters=16, working_set=80, rounds=2),
        gpu=Sizes(adapters=32, working_set=200, rounds=2),
        quick=Sizes(adapters=2, working_set=2, rounds=1),
    ),
    measure,
    ("adapter", "first token, median ms", "p99 ms"),
    lambda results: [(kind, r["median"], r["p99"]) for kind, r in results["first_token_ms"].items()],
    lambda results: {"cold_minus_warm_ttft_ms": results["cold_minus_warm_ms"]},
)

if __name__ == "__main__":
    main(BENCHMARK)
