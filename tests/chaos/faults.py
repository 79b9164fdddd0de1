"""What is done to the parts: killed, paused, slowed, filled; in an order that a seed decides."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from redis.asyncio import Redis

from service.launcher import Child
from tests.chaos.proxy import Proxy
from tests.chaos.stack import Stack

PAUSE_S = (1.0, 8.0)
SLOW_S = (3.0, 10.0)
# A little slow, slow, slower than any timeout of the store.
DELAYS_S = (0.05, 0.4, 3.0)
REST_S = (2.0, 6.0)
RECOVERY_LIMIT_S = 240.0
CANARY_PERIOD_S = 0.25

Canary = Callable[[], Awaitable[bool]]
Inflict = Callable[[random.Random], contextlib.AbstractAsyncContextManager[None]]


def group_of(child: Child) -> int:
    """The process group of what the child's keeper keeps."""
    assert child.pid is not None
    found = Path(f"/proc/{child.pid}/task/{child.pid}/children").read_text().split()
    return int(found[0])


def _signal(child: Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, IndexError, FileNotFoundError, AssertionError):
        os.killpg(group_of(child), number)


@contextlib.asynccontextmanager
async def killed(child: Child, chance: random.Random) -> AsyncIterator[None]:
    _signal(child, signal.SIGKILL)
    yield


@contextlib.asynccontextmanager
async def paused(child: Child, chance: random.Random) -> AsyncIterator[None]:
    _signal(child, signal.SIGSTOP)
    try:
        await asyncio.sleep(chance.uniform(*PAUSE_S))
        yield
    finally:
        _signal(child, signal.SIGCONT)


@contextlib.asynccontextmanager
async def slowed(proxy: Proxy, chance: random.Random) -> AsyncIterator[None]:
    proxy.delay_s = chance.choice(DELAYS_S)
    try:
        await asyncio.sleep(chance.uniform(*SLOW_S))
        yield
    finally:
        proxy.delay_s = 0.0


@contextlib.asynccontextmanager
async def full(url: str, chance: random.Random) -> AsyncIterator[None]:
    """The store takes no writes, and goes on answering."""
    async with Redis.from_url(url) as redis:
        before = str((await redis.config_get("maxmemory"))["maxmemory"])
        await redis.config_set("maxmemory", "1")
        try:
            await asyncio.sleep(chance.uniform(*PAUSE_S))
            yield
        finally:
            await redis.config_set("maxmemory", before)


@dataclass
class Faults:
    """Runs faults until it is cancelled. `active` is true from a fault's begin until the canary sings again."""

    stack: Stack
    canary: Canary
    seed: int
    active: bool = False
    last_s: float = 0.0
    recoveries_s: dict[str, list[float]] = field(default_factory=dict)
    not_recovered: list[str] = field(default_factory=list)

    def kinds(self) -> dict[str, Inflict]:
        stack = self.stack
        return {
            "store killed": lambda chance: killed(stack.store, chance),
            "store paused": lambda chance: paused(stack.store, chance),
            "store slowed": lambda chance: slowed(stack.store_proxy, chance),
            "store full": lambda chance: full(stack.store_url, chance),
            "engine killed": lambda chance: killed(stack.engine, chance),
            "engine paused": lambda chance: paused(stack.engine, chance),
            "engine slowed": lambda chance: slowed(stack.engine_proxy, chance),
        }

    async def run(self, until_s: float) -> None:
        """All kinds in random order, then again in another, until `until_s` (monotonic)."""
        chance = random.Random(self.seed)
        kinds = self.kinds()
        while True:
            for name in chance.sample(sorted(kinds), len(kinds)):
                await asyncio.sleep(chance.uniform(*REST_S))
                if time.monotonic() > until_s:
                    return
                await self._inflict(name, kinds[name], chance)

    async def _inflict(self, name: str, kind: Inflict, chance: random.Random) -> None:
        self.active = True
        begin_s = time.monotonic()
        async with kind(chance):
            pass
        over_s = time.monotonic()
        while not await self.canary():
            if time.monotonic() - over_s > RECOVERY_LIMIT_S:
                self.not_recovered.append(name)
                break
            await asyncio.sleep(CANARY_PERIOD_S)
        self.last_s = time.monotonic()
        self.recoveries_s.setdefault(name, []).append(round(self.last_s - over_s, 2))
        print(f"  {name} for {over_s - begin_s:.1f} s, well again after {self.last_s - over_s:.1f} s", flush=True)
        self.active = False
