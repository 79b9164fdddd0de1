"""Start-up: `genadapter serve` to ready, by stage, as its own lines tell.

python -m bench.startup
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from typing import Any

from bench.common import Benchmark, Profile, main, median
from bench.stack import START_TIMEOUT_S, STOP_TIMEOUT_S, Stack
from service.children import free_port

STAGE = re.compile(r"\[ *(\d+\.\d) s\] (\w+): ready")


@dataclass(frozen=True)
class Sizes:
    starts: int


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    runs = [await _start() for _ in range(sizes.starts)]
    stages = {name: median([run[name] for run in runs if name in run]) for name in runs[0]}
    return {"starts": sizes.starts, "seconds": stages}


async def _start() -> dict[str, float]:
    """Seconds from the command to each part's readiness, and to the whole's."""
    with tempfile.TemporaryDirectory(prefix="genadapter-bench-") as folder:
        environment = {**os.environ, "GENADAPTER_DATA_DIR": folder}
        command = [sys.executable, "-m", "service.cli", "serve", "--port", str(free_port())]
        begin = time.monotonic()
        process = await asyncio.create_subprocess_exec(
            *command, env=environment, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                return await _read(process, begin)
        finally:
            process.send_signal(signal.SIGTERM)
            await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)


async def _read(process: asyncio.subprocess.Process, begin: float) -> dict[str, float]:
    assert process.stderr is not None
    stages: dict[str, float] = {}
    async for raw in process.stderr:
        line = raw.decode(errors="replace")
        if match := STAGE.search(line):
            stages[match[2]] = time.monotonic() - begin
        elif "ready" in line and "http://" in line:
            stages["everything"] = time.monotonic() - begin
            return stages
    raise RuntimeError("the service ended before it was ready")


BENCHMARK = Benchmark(
    "startup",
    __doc__,
    Profile(cpu=Sizes(3), gpu=Sizes(3), quick=Sizes(1)),
    measure,
    ("ready", "seconds"),
    lambda results: list(results["seconds"].items()),
    lambda results: {"warm_start_s": results["seconds"]["everything"]},
    own_stack=True,
)

if __name__ == "__main__":
    main(BENCHMARK)
