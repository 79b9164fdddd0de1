"""The service is killed at random moments while it makes adapters: all that was acknowledged answers afterwards, and nothing
half-written shows."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from dataclasses import dataclass, field
from typing import Any

import httpx
from redis.asyncio import Redis

from service.records import AdapterRecord, checksum
from service.store import PARTS
from tests.chaos.documents import PROMPT
from tests.chaos.judge import Tally
from tests.chaos.report import Result, result_of
from tests.chaos.stack import Service, Stack

CREATORS = 8
# Small, so that many adapters are made: what they know does not matter here.
STATE_SIZE = 128
LIFE_S = (0.2, 10.0)
PAGE = 100


@dataclass
class Made:
    """Ids by text: promised by an answer, or only asked for."""

    promised: dict[str, str] = field(default_factory=dict)
    asked: int = 0


async def kills(stack: Stack) -> Result:
    wanted, seed = int(os.environ.get("CHAOS_CREATES", "1000")), int(os.environ.get("CHAOS_SEED", "1"))
    chance, made, tally = random.Random(seed), Made(), Tally()
    count, recoveries_s = 0, []
    while made.asked < wanted:
        creating = [asyncio.create_task(_create(stack, made, wanted, tally)) for _ in range(CREATORS)]
        await asyncio.sleep(chance.uniform(*LIFE_S))
        await stack.service.end(signal.SIGKILL)
        count += 1
        await asyncio.gather(*creating)
        recoveries_s.append(await _start(stack.service))
        print(f"  killed {count} times; {made.asked} asked for, {len(made.promised)} acknowledged", flush=True)
    await _verify(stack, made, tally)
    facts = {"creates": made.asked, "acknowledged": len(made.promised), "kills": count, "seed": seed}
    return result_of(tally, recovery_s=max(recoveries_s), **facts)


async def _start(service: Service) -> float:
    begin_s = time.monotonic()
    await service.start()
    return round(time.monotonic() - begin_s, 2)


async def _create(stack: Stack, made: Made, wanted: int, tally: Tally) -> None:
    """One after the other, until the service dies."""
    async with stack.client("acme") as client:
        while made.asked < wanted:
            made.asked += 1
            text = f"Note {made.asked}: the harbour has {made.asked * 7919 % 1009} boats."
            try:
                response = await client.post("/contextualize", json={"text": text})
            except httpx.TransportError:
                return
            if tally.check("create", response, {200, 201}):
                made.promised[text] = response.json()["id"]


async def _verify(stack: Stack, made: Made, tally: Tally) -> None:
    promised = set(made.promised.values())
    waiting = iter(promised)
    async with stack.client("acme") as client:

        async def work() -> None:
            for name in waiting:
                await _answers(client, name, tally)

        await asyncio.gather(*(work() for _ in range(CREATORS)))
        listed = await _listed(client)
        if missing := promised - listed:
            tally.note("lost_adapters", f"the listing lacks {missing}")
        for name in listed - promised:  # made, but the answer was cut off: whole all the same
            response = await client.get(f"/adapters/{name}/peft")
            if not tally.check("unacknowledged", response, {200}):
                tally.note("wrong_answers", f"{name} is listed, and is no whole adapter: {response.text[:200]}")
    async with Redis.from_url(stack.store_url) as redis:
        await _no_halves(redis, tally)


async def _answers(client: httpx.AsyncClient, name: str, tally: Tally) -> None:
    body = {"adapter_id": name, "prompt": PROMPT, "max_tokens": 1}
    for path, fields in (("/generate", body), (f"/adapters/{name}", None)):
        response = await client.request("POST" if fields else "GET", path, json=fields)
        if not tally.check("verify", response, {200}):
            tally.note("lost_adapters", f"{path} of {name}: {response.text[:200]}")


async def _listed(client: httpx.AsyncClient) -> set[str]:
    found: set[str] = set()
    after: dict[str, Any] = {}
    while True:
        page = (await client.get("/adapters", params={"limit": PAGE, **after})).raise_for_status().json()
        found |= {item["id"] for item in page["data"]}
        if not page["has_more"]:
            return found
        after = {"after": page["last_id"]}


async def _no_halves(redis: Redis, tally: Tally) -> None:
    """In the store itself: every record has its weights, whole, and no weights are without their record."""
    parts: dict[str, set[str]] = {part: set() for part in PARTS}
    async for key in redis.scan_iter("ga:{ga-*}:*", count=1000):
        name, part = key.decode().removeprefix("ga:{").split("}:")
        parts[part].add(name)
    if halves := parts["meta"] ^ parts["factors"]:
        tally.note("wrong_answers", f"half an adapter in the store: {halves}")
    for name in parts["meta"] & parts["factors"]:
        pair: list[Any] = await redis.mget(f"ga:{{{name}}}:meta", f"ga:{{{name}}}:factors")
        if checksum(pair[1]) != AdapterRecord.from_json(pair[0]).sha256:
            tally.note("wrong_answers", f"damaged weights in the store: {name}")
