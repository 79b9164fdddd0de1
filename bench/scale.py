"""Scale: thousands of adapters in the store, many in rotation. Create, use, list and delete must not notice, and no process grow.

    python -m bench.scale

The store is filled with copies of real adapters of a small random generator (rank 8, 8 KiB each), so that thousands fit any
machine; what is measured goes through the service.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from bench.common import Benchmark, Profile, main, median, shipped_config
from bench.load import ask, contextualize, document, question
from bench.memory import resident_bytes
from bench.stack import Stack, started
from service.records import AdapterRecord
from service.store import Store

PAGE = 100
IN_FLIGHT = 16


@dataclass(frozen=True)
class Sizes:
    few: int  # adapters in the store
    many: int
    rotation: int
    rounds: int
    samples: int  # of each operation, at each size, in a round


async def measure(stack: Stack | None, sizes: Sizes) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="genadapter-bench-") as folder:
        checkpoint = await asyncio.to_thread(small_generator, Path(folder) / "generator")
        async with started(GENERATOR=str(checkpoint), MAX_ADAPTERS=str(2 * sizes.many)) as ours:
            assert ours.redis_url is not None
            store = await Store.open(ours.redis_url)
            try:
                return await _measure(ours, store, sizes)
            finally:
                await store.close()


async def _measure(stack: Stack, store: Store, sizes: Sizes) -> dict[str, Any]:
    template = await contextualize(stack.client, document(1, 128))
    record, payload = await store.get(template["id"]), await store.payload(template["id"])
    assert record is not None
    assert payload is not None
    few = [record.id, *await _fill(store, record, payload, sizes.few - 1)]
    await _rotate(stack, few * 2)
    times: dict[str, dict[str, list[float]]] = {str(sizes.few): {}, str(sizes.many): {}}
    memory = []
    for _ in range(sizes.rounds):  # in turns, so that a slow moment of the machine meets both
        await _operations(stack, few, sizes, times[str(sizes.few)])
        more = await _fill(store, record, payload, sizes.many - sizes.few)
        await _rotate(stack, more[: sizes.rotation])
        await _operations(stack, few + more, sizes, times[str(sizes.many)])
        memory.append({name: tree_resident_bytes(pid) for name, pid in stack.processes.items()})
        await _at_once([store.delete(name, record.tenant) for name in more])
    medians = {size: {name: median(values) for name, values in found.items()} for size, found in times.items()}
    return {"milliseconds": medians, "memory_bytes_by_round": memory, "rotation": sizes.rotation}


async def _fill(store: Store, like: AdapterRecord, payload: bytes, count: int) -> list[str]:
    """Copies under ids of their own."""
    names = [f"ga-{hashlib.sha256(f'{time.time_ns()}-{i}'.encode()).hexdigest()[:32]}" for i in range(count)]
    await _at_once(
        [store.publish(dataclasses.replace(like, id=name, created_at=time.time()), payload) for name in names]
    )
    return names


async def _at_once(calls: Sequence[Coroutine[Any, Any, Any]]) -> None:
    """A few in flight."""
    for start in range(0, len(calls), IN_FLIGHT):
        await asyncio.gather(*calls[start : start + IN_FLIGHT])


async def _rotate(stack: Stack, ids: list[str]) -> None:
    """One token of each, eight in flight."""
    waiting = iter(ids)

    async def client() -> None:
        for name in waiting:
            await ask(stack.client, name, question(1), 1)

    await asyncio.gather(*(client() for _ in range(8)))


async def _operations(stack: Stack, ids: list[str], sizes: Sizes, times: dict[str, list[float]]) -> None:
    """Milliseconds of each, added to `times`."""
    client = stack.client
    made: list[str] = []
    warm = ids[:8]

    async def create(i: int) -> None:
        made.append((await contextualize(client, document(len(ids) * 1000 + i, 64)))["id"])

    async def use(i: int) -> None:
        await ask(client, warm[i % len(warm)], question(i), 1)

    async def list_page(i: int) -> None:
        _checked(await client.get("/adapters", params={"limit": PAGE}))

    async def list_later_page(i: int) -> None:
        _checked(await client.get("/adapters", params={"limit": PAGE, "after": ids[len(ids) // 2]}))

    async def delete(i: int) -> None:
        _checked(await client.delete(f"/adapters/{made[i]}"))

    operations: dict[str, Callable[[int], Awaitable[None]]] = {
        "create": create,
        "use": use,
        "list": list_page,
        "list, from the middle": list_later_page,
        "delete": delete,
    }
    await _rotate(stack, warm)
    for name, operation in operations.items():
        for i in range(sizes.samples):
            begin = time.perf_counter()
            await operation(i)
            times.setdefault(name, []).append((time.perf_counter() - begin) * 1000)


def _checked(response: httpx.Response) -> None:
    response.raise_for_status()


def tree_resident_bytes(pid: int) -> int:
    """Of a process and all its descendants."""
    total, waiting = 0, [pid]
    while waiting:
        current = Path("/proc") / str(waiting.pop())
        try:
            total += resident_bytes(current.name)
            for task in (current / "task").iterdir():
                waiting += map(int, (task / "children").read_text().split())
        except (OSError, IndexError):
            continue
    return total


def small_generator(folder: Path) -> Path:
    """A random generator of rank 8 for the default base model."""
    import torch

    from generator.base_model import fingerprint_base, resolve_base_model
    from generator.checkpoint import save_checkpoint
    from generator.model import GeneratorNetwork

    shipped = shipped_config()
    fingerprint = fingerprint_base(resolve_base_model(shipped.base_model))
    config = dataclasses.replace(shipped, r1=32, r2=32, max_rank=8, alpha=32.0, base_fingerprint=fingerprint)
    torch.manual_seed(0)
    save_checkpoint(GeneratorNetwork(config), folder)
    return folder


def rows(results: dict[str, Any]) -> list[tuple[object, ...]]:
    few, many = results["milliseconds"].values()
    return [(name, few[name], many[name], many[name] / few[name]) for name in few]


def summary(results: dict[str, Any]) -> dict[str, float]:
    few, many = results["milliseconds"].values()
    return {"latency_10k_over_100": max(many[name] / few[name] for name in ("create", "use", "list"))}


BENCHMARK = Benchmark(
    "scale",
    __doc__,
    Profile(
        cpu=Sizes(few=100, many=10_000, rotation=1000, rounds=3, samples=10),
        gpu=Sizes(few=100, many=10_000, rotation=1000, rounds=5, samples=20),
        quick=Sizes(few=4, many=8, rotation=4, rounds=1, samples=2),
    ),
    measure,
    ("operation, ms", "few adapters", "many", "many over few"),
    rows,
    summary,
    own_stack=True,
)

if __name__ == "__main__":
    main(BENCHMARK)
