"""Our own overhead: the service against its engine directly, the same request in turns.

python -m bench.overhead
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import httpx

from bench.common import Benchmark, Profile, main, median, paired_ratio, quantile
from bench.load import at_once, contextualize, document, question
from bench.stack import Stack

IN_FLIGHT = 16


@dataclass(frozen=True)
class Sizes:
    requests: int  # one after the other, of each kind
    rounds: int  # of IN_FLIGHT requests
    tokens: int


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    assert stack is not None
    if stack.engine is None:
        raise SystemExit("--engine-url is needed beside --url: the engine is what the service is compared with")
    adapter = (await contextualize(stack.client, document(31, 256)))["id"]
    kinds = {
        "engine /v1/completions": (stack.engine, "/v1/completions", {"model": adapter}),
        "/generate": (stack.client, "/generate", {"adapter_id": adapter}),
        "/v1/completions": (stack.client, "/v1/completions", {"model": adapter}),
        "engine /v1/chat/completions": (stack.engine, "/v1/chat/completions", {"model": adapter}),
        "/v1/chat/completions": (stack.client, "/v1/chat/completions", {"model": adapter}),
    }
    times: dict[str, list[float]] = {kind: [] for kind in kinds}
    for number in range(-3, sizes.requests):
        for kind, (client, path, fields) in kinds.items():
            seconds = await _time(client, path, fields, number, sizes.tokens)
            if number >= 0:  # the first ones warm it up
                times[kind].append(seconds * 1000)
    load = [(adapter, question(i)) for i in range(IN_FLIGHT)]
    rates: dict[str, list[float]] = {}
    for _ in range(sizes.rounds):
        for kind in ("engine /v1/completions", "/generate"):
            rates.setdefault(kind, []).append(await _tokens_per_s(*kinds[kind]))
        for kind, client in (("engine, streamed", stack.engine), ("/v1/completions, streamed", stack.client)):
            rates.setdefault(kind, []).append((await at_once(client, load, 32))[0])
    return {
        "milliseconds": {
            kind: {"median": median(values), "p99": quantile(values, 0.99)} for kind, values in times.items()
        },
        "added_ms": {kind: _added(times, kind) for kind in kinds if not kind.startswith("engine")},
        "tokens_per_s": {kind: median(values) for kind, values in rates.items()},
        "throughput_over_direct": {
            "/generate": paired_ratio(rates["/generate"], rates["engine /v1/completions"]),
            "/v1/completions, streamed": paired_ratio(rates["/v1/completions, streamed"], rates["engine, streamed"]),
        },
    }


async def _tokens_per_s(client: httpx.AsyncClient, path: str, fields: dict[str, Any]) -> float:
    """Of IN_FLIGHT answers at once, taken whole."""
    bodies = [{**fields, "prompt": question(i), "max_tokens": 32, "seed": i} for i in range(IN_FLIGHT)]
    begin = time.perf_counter()
    answers = await asyncio.gather(*(client.post(path, json=body) for body in bodies))
    seconds = time.perf_counter() - begin
    tokens = [int(answer.raise_for_status().json()["usage"]["completion_tokens"]) for answer in answers]
    return sum(tokens) / seconds


async def _time(client: httpx.AsyncClient, path: str, fields: dict[str, Any], number: int, tokens: int) -> float:
    text = question(number)
    asked = {"messages": [{"role": "user", "content": text}]} if "chat" in path else {"prompt": text}
    body = {**fields, **asked, "max_tokens": tokens, "temperature": 0}
    begin = time.perf_counter()
    response = await client.post(path, json=body)
    response.raise_for_status()
    return time.perf_counter() - begin


def _added(times: dict[str, list[float]], kind: str) -> dict[str, float]:
    """Of pairs of neighbours in time, so that a slow moment of the machine meets both."""
    direct = times["engine /v1/chat/completions" if "chat" in kind else "engine /v1/completions"]
    pairs = [ours - theirs for ours, theirs in zip(times[kind], direct, strict=True)]
    return {"median": median(pairs), "p99": quantile(times[kind], 0.99) - quantile(direct, 0.99)}


def summary(results: dict[str, Any]) -> dict[str, float]:
    return {
        "overhead_ms_median": results["added_ms"]["/generate"]["median"],
        "throughput_through_service_over_direct": results["throughput_over_direct"]["/generate"],
        "streamed_throughput_over_direct": results["throughput_over_direct"]["/v1/completions, streamed"],
    }


BENCHMARK = Benchmark(
    "overhead",
    __doc__,
    Profile(
        cpu=Sizes(requests=40, rounds=15, tokens=4),
        gpu=Sizes(requests=200, rounds=15, tokens=4),
        quick=Sizes(requests=2, rounds=1, tokens=1),
    ),
    measure,
    ("request", "median, ms", "p99, ms", "added, median", "added, p99"),
    lambda results: [
        (kind, r["median"], r["p99"], *results["added_ms"].get(kind, {"median": "", "p99": ""}).values())
        for kind, r in results["milliseconds"].items()
    ],
    summary,
)

if __name__ == "__main__":
    main(BENCHMARK)
