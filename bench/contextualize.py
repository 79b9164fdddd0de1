"""Contextualize against the limit: /contextualize against one plain forward pass over the same number of tokens (no logits).

    python -m bench.contextualize

The plain pass runs in this process, on the same cores, between the service's: never both at once. Peak memory is that of
processes of their own: the generator, and a naive implementation that keeps all hidden states and takes a full SVD.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from bench.common import Benchmark, Profile, main, median, paired_ratio, shipped_config
from bench.load import contextualize, document
from bench.memory import forget_peak, resident_bytes
from bench.stack import Stack

REST = ("parse", "tokenize", "queue", "factorize", "store")


@dataclass(frozen=True)
class Sizes:
    tokens: dict[int, int]  # of a document: rounds
    memory_tokens: int
    service_tokens: tuple[int, ...]  # of documents that the service's own peak is taken with
    concurrency: tuple[int, ...]
    documents: int  # in one round of the concurrency test
    rounds: int  # of it
    document_tokens: int


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    assert stack is not None
    bare = await asyncio.to_thread(BarePass)
    await contextualize(stack.client, document(1, 64))
    by_tokens = {}
    for tokens, rounds in sizes.tokens.items():
        forward, rest, plain = [], [], []
        for number in range(rounds):
            made = await contextualize(stack.client, document(100 * tokens + number, tokens))
            forward.append(made["timings_ms"]["forward"])
            rest.append(sum(made["timings_ms"][stage] for stage in REST))
            plain.append(await asyncio.to_thread(bare.milliseconds, made["tokens"]))
        by_tokens[str(tokens)] = {
            "tokens": made["tokens"],
            "forward_ms": median(forward),
            "plain_pass_ms": median(plain),
            "forward_over_plain": median([f / p for f, p in zip(forward, plain, strict=True)]),
            "rest_ms": median(rest),
        }
    del bare
    rates: dict[int, list[float]] = {n: [] for n in sizes.concurrency}
    for number in range(sizes.rounds):
        for n, found in rates.items():
            found.append(await _documents_per_s(stack, sizes, n, 1000 * number))
    whole = {
        str(tokens): await _service_peak(stack, tokens)
        for tokens in sizes.service_tokens
        if "service" in stack.processes
    }
    peaks = {kind: await asyncio.to_thread(_peak, kind, sizes.memory_tokens) for kind in ("ours", "naive")}
    return {
        "by_tokens": by_tokens,
        "documents_per_s": {
            str(n): {"median": median(found), "over_one": paired_ratio(found, rates[1])} for n, found in rates.items()
        },
        "service_peak_bytes": whole,
        "memory": {"tokens": sizes.memory_tokens, **{f"{kind}_bytes": peak for kind, peak in peaks.items()}},
    }


class BarePass:
    """The base model alone, in this process."""

    def __init__(self) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in the service
        import torch

        from generator.base_model import resolve_base_model
        from generator.generator import load_base, resolve_dtype

        self._torch = torch
        dtype = resolve_dtype("auto", "cpu")  # the service's own default
        self._base = load_base(resolve_base_model(shipped_config().base_model), "cpu", dtype)
        self.milliseconds(256)

    def milliseconds(self, tokens: int) -> float:
        ids = self._torch.arange(tokens)[None] % 1000 + 100
        with self._torch.inference_mode():
            begin = time.perf_counter()
            self._base.get_decoder()(input_ids=ids, use_cache=False)
            return (time.perf_counter() - begin) * 1000


async def _documents_per_s(stack: Stack, sizes: Sizes, concurrency: int, seed: int) -> float:
    """`documents` fresh ones with so many in flight."""
    first = 7_000_000 + 10_000 * concurrency + seed
    waiting = iter([document(first + i, sizes.document_tokens) for i in range(sizes.documents)])

    async def client() -> None:
        for text in waiting:
            await contextualize(stack.client, text)

    begin = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    return sizes.documents / (time.perf_counter() - begin)


async def _service_peak(stack: Stack, tokens: int) -> int:
    """The largest resident size of the whole service process while it reads one document."""
    process = stack.processes["service"]
    forget_peak(process)
    await contextualize(stack.client, document(9_000_000 + tokens, tokens))
    return resident_bytes(process, "VmHWM")


def _peak(kind: str, tokens: int) -> int:
    """Bytes that a process needs beyond the loaded models."""
    command = [sys.executable, "-m", "bench.memory", kind, str(tokens)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout.splitlines()[-1])["extra_bytes"])


def summary(results: dict[str, Any]) -> dict[str, float]:
    found, rates, memory = results["by_tokens"], results["documents_per_s"], results["memory"]
    numbers = {"extra_memory_over_naive_8k": memory["ours_bytes"] / memory["naive_bytes"]}
    if "1024" in found:
        numbers["forward_over_bare_1k"] = found["1024"]["forward_over_plain"]
        numbers["contextualize_rest_ms_1k"] = found["1024"]["rest_ms"]
    if "4096" in found:
        numbers["forward_over_bare_4k"] = found["4096"]["forward_over_plain"]
    if "16" in rates:
        numbers["batch16_speedup_512"] = rates["16"]["over_one"]
    return numbers


def plot(results: dict[str, Any], axes: Any) -> None:
    found = results["by_tokens"].values()
    axes.plot([r["tokens"] for r in found], [r["forward_ms"] / 1000 for r in found], marker="o", label="contextualize")
    axes.plot([r["tokens"] for r in found], [r["plain_pass_ms"] / 1000 for r in found], marker="o", label="plain pass")
    axes.set(title="One pass over a document", xlabel="tokens", ylabel="seconds")
    axes.legend()


BENCHMARK = Benchmark(
    "contextualize",
    __doc__,
    Profile(
        cpu=Sizes({256: 5, 1024: 5, 4096: 3, 8000: 1}, 8000, (2_000, 32_000), (1, 4, 16), 16, 5, 512),
        gpu=Sizes({256: 5, 1024: 5, 4096: 5, 8000: 3, 32000: 1}, 8000, (2_000, 32_000), (1, 4, 16), 64, 3, 512),
        quick=Sizes({64: 1}, 128, (64, 256), (1, 2), 2, 1, 64),
    ),
    measure,
    ("tokens", "forward, ms", "plain pass, ms", "forward over plain", "all the rest, ms"),
    lambda results: [
        (r["tokens"], r["forward_ms"], r["plain_pass_ms"], r["forward_over_plain"], r["rest_ms"])
        for r in results["by_tokens"].values()
    ],
    summary,
    plot,
)

if __name__ == "__main__":
    main(BENCHMARK)
