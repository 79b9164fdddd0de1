"""The load of the chaos run without the chaos, for long: nothing may grow."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from redis.asyncio import Redis

from tests.chaos.documents import all_documents, record
from tests.chaos.faults import group_of
from tests.chaos.load import Load
from tests.chaos.report import Result, finish, verify
from tests.chaos.stack import Stack

SAMPLE_S = 5.0
# Of the whole time: until then all is warming up. Of what is left, the first and the last share are compared.
WARM_UP_SHARE, COMPARED_SHARE = 0.3, 0.2
MIB = 1 << 20
# What may come on top: a share, and so much in any case.
GROWTH = {
    "memory_bytes": (0.08, 48 * MIB),
    "descriptors": (0.0, 12),
    "threads": (0.0, 4),
    "store_bytes": (0.05, 4 * MIB),
}


@dataclass(frozen=True)
class Sample:
    """Of the service and all that it and the engine started."""

    memory_bytes: int
    descriptors: int
    threads: int


async def soak(stack: Stack) -> Result:
    minutes = float(os.environ.get("SOAK_MINUTES", "30"))
    samples: list[Sample] = []
    async with AsyncExitStack() as exits:
        clients = {tenant: await exits.enter_async_context(stack.client(tenant)) for tenant in stack.keys}
        redis = await exits.enter_async_context(Redis.from_url(stack.store_url))
        documents = all_documents()
        load = Load(clients, documents, await record(clients, documents))
        until_s = time.monotonic() + minutes * 60
        await load.run(time.monotonic() + minutes * 60 * WARM_UP_SHARE, 1)
        store_before = await _store_bytes(load, redis)
        sampling = asyncio.create_task(_sample(stack, samples))
        await load.run(until_s, 2)
        sampling.cancel()
        store_after = await _store_bytes(load, redis)
        await verify(load)
    size = max(1, int(len(samples) * COMPARED_SHARE))
    first = _middle(samples[:size]) | {"store_bytes": store_before}
    last = _middle(samples[-size:]) | {"store_bytes": store_after}
    for name, (share, room) in GROWTH.items():
        if last[name] > first[name] * (1 + share) + room:
            load.tally.note("contract_violations", f"{name} grew from {first[name]:.0f} to {last[name]:.0f}")
    return finish(load, recovery_s=0.0, minutes=minutes, after_warm_up=first, at_the_end=last)


async def _store_bytes(load: Load, redis: Redis) -> float:
    """The store's own count of its memory, with the same adapters in it each time."""
    await load.complete()
    return float((await redis.info("memory"))["used_memory"])


def _middle(samples: list[Sample]) -> dict[str, float]:
    found = [asdict(sample) for sample in samples]
    return {name: statistics.median(one[name] for one in found) for name in found[0]}


async def _sample(stack: Stack, samples: list[Sample]) -> None:
    assert stack.service.process is not None
    while True:
        roots = [stack.service.process.pid, group_of(stack.engine)]
        found = [_of_process(pid) for root in roots for pid in _family(root)]
        samples.append(Sample(*(sum(column) for column in zip(*found, strict=True))))
        await asyncio.sleep(SAMPLE_S)


def _family(root: int) -> list[int]:
    """A process and all below it, but parsers, which come and go."""
    found = [root]
    for task in Path(f"/proc/{root}/task").glob("*"):
        try:
            children = [int(child) for child in (task / "children").read_text().split()]
        except OSError:
            continue
        found += [pid for child in children if not _is_parser(child) for pid in _family(child)]
    return found


def _is_parser(pid: int) -> bool:
    try:
        return b"parse_document" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return True


def _of_process(pid: int) -> tuple[int, int, int]:
    """Resident bytes, descriptors, threads; zeros for one that has ended."""
    folder = Path(f"/proc/{pid}")
    try:
        resident = int((folder / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return resident, sum(1 for _ in (folder / "fd").iterdir()), sum(1 for _ in (folder / "task").iterdir())
    except OSError:
        return 0, 0, 0
