"""Every benchmark, one after the other, and bench/results/summary.json: python -m bench [--gpu | --quick] [NAME ...]

Those that drive a common service share one that is started here.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys

from bench import adapters, cold, contextualize, overhead, prompt, scale, startup
from bench.common import RESULTS, Benchmark, parser, read
from bench.stack import started

BENCHMARKS: dict[str, Benchmark] = {  # type: ignore[type-arg]
    module.BENCHMARK.name: module.BENCHMARK
    for module in (startup, contextualize, prompt, overhead, cold, adapters, scale)
}


def main() -> int:
    arguments = parser(__doc__ or "")
    arguments.add_argument("names", nargs="*", choices=[[], *BENCHMARKS], help="all by default")
    args = arguments.parse_args()
    names = args.names or list(BENCHMARKS)
    common = [] if args.profile == "cpu" else [f"--{args.profile}"]
    given = _addresses(args.url, args.engine_url, args.service_pid) if args.url else []
    codes = asyncio.run(_shared([n for n in names if not BENCHMARKS[n].own_stack], common, given))
    for name in names:
        if BENCHMARKS[name].own_stack:
            codes.append(_run(name, common))
    summarize()
    return max(codes, default=0)


def _addresses(url: object, engine_url: object, service_pid: object) -> list[str]:
    """The options that name a running service, as far as they are known."""
    known = {"--url": url, "--engine-url": engine_url, "--service-pid": service_pid}
    return [part for option, value in known.items() if value is not None for part in (option, str(value))]


async def _shared(names: list[str], common: list[str], given: list[str]) -> list[int]:
    """`given`: the options that name a running service; one is started where there are none."""
    if given or not names:
        return [await asyncio.to_thread(_run, name, [*common, *given]) for name in names]
    async with started() as stack:
        assert stack.engine is not None
        given = _addresses(stack.client.base_url, stack.engine.base_url, stack.processes["service"])
        return [await asyncio.to_thread(_run, name, [*common, *given]) for name in names]


def _run(name: str, arguments: list[str]) -> int:
    print(f"\n== {name}", flush=True)
    return subprocess.run([sys.executable, "-m", f"bench.{name}", *arguments], check=False).returncode


def summarize() -> None:
    """One number for each promise, from the results that are there."""
    numbers: dict[str, float] = {}
    for name, benchmark in BENCHMARKS.items():
        try:
            numbers |= benchmark.summary(read(name))
        except FileNotFoundError:
            continue
    text = json.dumps({key: round(value, 4) for key, value in sorted(numbers.items())}, indent=2)
    (RESULTS / "summary.json").write_text(text + "\n")
    print(f"\n{text}")


if __name__ == "__main__":
    sys.exit(main())
