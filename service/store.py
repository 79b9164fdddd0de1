"""The store: everything that is said to Redis (or Valkey, 6.2 or newer, a cluster too), and every key.

    ga:{ID}:meta         JSON of the record, with the payload's SHA-256   as long as the adapter lives
    ga:{ID}:factors      the adapter's compact weights (safetensors)      the same; written and removed with meta
    ga:{ID}:state        S, for adapters that can be appended to          its own, shorter time
    ga:tenant:{T}:made   sorted set: ids by time of creation, in ms       until the tenant's last adapter expires
    ga:tenant:{T}:ends   sorted set: ids by time of expiry, in ms         the same; tells which members to prune
    ga:tenant:{T}:sizes  hash: bytes by id, and their `total`             the same; what the tenant's limit is held against
    ga:secret            32 random bytes that key the ids                 for ever; all replicas share it

The braces are cluster hash tags: no command or script touches two slots. The keys of an adapter and the index of its
tenant lie in different slots, so they are written one after the other: the index first, because a crash in between
then leaves a member that listing skips and pruning removes, and never an adapter that no listing shows.
"""

from __future__ import annotations

import contextlib
import hmac
import logging
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from service.errors import AdapterDamaged, StoreUnavailable
from service.ids import is_adapter_id
from service.limits import Limits, Usage
from service.records import AdapterRecord, Page, checksum
from service.store_client import open_client
from service.store_scripts import DROP_PARTS, PUT_PARTS, REFRESH_PARTS
from service.tenant_index import TenantIndex, milliseconds

logger = logging.getLogger(__name__)

ID_KEY = "ga:secret"
# What an adapter consists of, in the order in which it is deleted.
PARTS = ("meta", "factors", "state")
SECRET_BYTES = 32
# Seconds between two lines of the log about one kind of failure.
TELL_AGAIN_S = 10.0
# A record that others change at the same time is read and changed anew this often.
CHANGE_TRIES = 20
# Listing looks at this many index members at most for a page, dead ones included.
MAX_LIST_READS = 400
LIST_LIMIT = 100

Observer = Callable[[str, float, bool], None]


def _key(adapter_id: str, part: str) -> str:
    return f"ga:{{{adapter_id}}}:{part}"


def _keys(adapter_id: str, with_state: bool = True) -> list[str]:
    return [_key(adapter_id, part) for part in PARTS if with_state or part != "state"]


class Store:
    """Adapters in Redis. Every method raises StoreUnavailable when Redis is away, slow or takes no writes."""

    def __init__(self, client: Any, observe: Observer | None = None) -> None:
        self._redis = client
        self._index = TenantIndex(client)
        self._observe = observe
        self._secret: bytes | None = None
        self._told: dict[tuple[str, str], float] = {}

    @classmethod
    async def open(
        cls, url: str, *, timeout_s: float = 2.0, connections: int = 64, observe: Observer | None = None
    ) -> Store:
        """Does not connect yet: a store that is away at start-up may come back."""
        return cls(open_client(url, timeout_s, connections), observe)

    async def close(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            await self._redis.aclose()

    @contextlib.asynccontextmanager
    async def _operation(self, name: str) -> AsyncIterator[None]:
        begin, failed = time.perf_counter(), True
        try:
            yield
            failed = False
        except (RedisError, OSError, TimeoutError) as error:
            kind = "slow" if isinstance(error, RedisTimeoutError | TimeoutError) else type(error).__name__
            self._tell(name, kind)
            raise StoreUnavailable(f"{name}: {kind}") from error
        finally:
            if self._observe is not None:
                self._observe(name, time.perf_counter() - begin, failed)

    def _tell(self, operation: str, kind: str) -> None:
        """In an outage every operation fails, the readiness probes' among them: each is told now and then."""
        now = time.monotonic()
        if now - self._told.get((operation, kind), -TELL_AGAIN_S) >= TELL_AGAIN_S:
            self._told[operation, kind] = now
            logger.warning("store: %s failed (%s)", operation, kind)

    async def ping(self) -> None:
        async with self._operation("ping"):
            await self._redis.ping()

    async def id_secret(self) -> bytes:
        """The key of the ids. Kept here too, so that a store that lost everything gets the same one back."""
        async with self._operation("secret"):
            found = await self._redis.get(ID_KEY)
            if found is None:
                await self._redis.set(ID_KEY, self._secret or os.urandom(SECRET_BYTES), nx=True)
                found = await self._redis.get(ID_KEY)
        if not found:
            raise StoreUnavailable("the id secret was not kept")
        self._secret = bytes(found)
        return self._secret

    async def publish(
        self, record: AdapterRecord, payload: bytes, limits: Limits | None = None, state: bytes | None = None
    ) -> AdapterRecord:
        """All of it or nothing: record, weights and state appear in one step.

        The record that stands then: another one if another replica has made the same adapter meanwhile. Raises
        LimitReached when the tenant may not keep one more.
        """
        keys = _keys(record.id, state is not None)
        parts = [payload] if state is None else [payload, milliseconds(record.state_expires_at or 0), state]
        for _ in range(CHANGE_TRIES):
            async with self._operation("publish"):
                seen = await self._redis.get(keys[0])
                wanted = record
                if seen is not None:  # the state alone is gone: what was promised of the adapter stays
                    before = AdapterRecord.from_json(seen)
                    ends = max(before.expires_at, record.expires_at)
                    wanted = replace(
                        record,
                        created_at=before.created_at,
                        expires_at=ends,
                        metadata=record.metadata or before.metadata,
                    )
                await self._index.put(wanted, limits)
                arguments = [seen or b"", wanted.to_json(), milliseconds(wanted.expires_at), *parts]
                if await self._redis.eval(PUT_PARTS, len(keys), *keys, *arguments) == 1:
                    return wanted
            kept = await self.refresh(
                record.id, record.tenant, record.expires_at, record.metadata, record.state_expires_at
            )
            if kept is not None:
                return kept
        raise StoreUnavailable("publish: the adapter kept changing")

    async def get(self, adapter_id: str) -> AdapterRecord | None:
        if not is_adapter_id(adapter_id):
            return None
        async with self._operation("get"):
            data = await self._redis.get(_key(adapter_id, "meta"))
        return None if data is None else AdapterRecord.from_json(data)

    async def payload(self, adapter_id: str) -> bytes | None:
        """The compact weights, checked against the record. A damaged adapter is removed: it can be made anew then."""
        if not is_adapter_id(adapter_id):
            return None
        async with self._operation("payload"):
            meta, payload = await self._redis.mget(*_keys(adapter_id, with_state=False))
        if meta is None or payload is None:
            return None
        record = AdapterRecord.from_json(meta)
        if not hmac.compare_digest(record.sha256, checksum(payload)):
            logger.error("store: the payload of %s does not match its checksum; it is removed", adapter_id)
            await self.delete(adapter_id, record.tenant)
            raise AdapterDamaged(adapter_id)
        return bytes(payload)

    async def state(self, adapter_id: str) -> bytes | None:
        """What appending needs, None where it was not kept or has expired. Its own checksum is inside."""
        async with self._operation("state"):
            data = await self._redis.get(_key(adapter_id, "state"))
        return None if data is None else bytes(data)

    async def drop_state(self, adapter_id: str) -> None:
        """Of a state that is damaged: the same request that made it makes it anew then."""
        async with self._operation("drop_state"):
            await self._redis.delete(_key(adapter_id, "state"))

    async def refresh(
        self,
        adapter_id: str,
        tenant: str,
        expires_at: float,
        metadata: dict[str, str],
        state_expires_at: float | None = None,
    ) -> AdapterRecord | None:
        """The record if the whole adapter is there (with its state, where that has an expiry), else None.

        Its life is prolonged, never shortened: somebody was promised the longer one. Metadata is replaced if any is
        given.
        """
        keys = _keys(adapter_id, state_expires_at is not None)
        for _ in range(CHANGE_TRIES):
            async with self._operation("refresh"):
                seen = await self._redis.get(keys[0])
                record = None if seen is None else AdapterRecord.from_json(seen)
                if record is None or record.tenant != tenant:
                    return None
                ends = max(expires_at, record.expires_at)
                state_ends = max(state_expires_at or 0, record.state_expires_at or 0) or None
                wanted = replace(
                    record, expires_at=ends, state_expires_at=state_ends, metadata=metadata or record.metadata
                )
                arguments = [seen, wanted.to_json(), milliseconds(ends), milliseconds(state_ends or 0)]
                done = await self._redis.eval(REFRESH_PARTS, len(keys), *keys, *arguments)
                if done == 0:
                    return None
                if done == 1:
                    await self._index.put(wanted, None)
                    return wanted
        raise StoreUnavailable("refresh: the record kept changing")

    async def delete(self, adapter_id: str, tenant: str) -> dict[str, int] | None:
        """What was removed, by part (zeros: a reply was lost and the command sent again); None when the tenant had no such
        adapter. Once its parts are gone it is deleted, whatever becomes of the index, which heals itself."""
        record = await self.get(adapter_id)
        if record is None or record.tenant != tenant:
            return None
        async with self._operation("delete"):
            dropped = await self._redis.eval(DROP_PARTS, len(PARTS), *_keys(adapter_id))
        removed = dict(zip(PARTS, map(int, dropped), strict=True)) | {"index": 0}
        with contextlib.suppress(StoreUnavailable):
            async with self._operation("delete"):
                removed["index"] = await self._index.drop(tenant, adapter_id)
        return removed

    async def usage(self, tenant: str) -> Usage:
        """What the tenant keeps, by the index."""
        async with self._operation("usage"):
            return await self._index.usage(tenant)

    async def list(self, tenant: str, limit: int, after: str | None = None) -> Page | None:
        """A page, newest first; None when `after` is not (or no longer) an adapter of this tenant."""
        start = 0
        if after is not None:
            async with self._operation("list"):
                rank = await self._index.rank(tenant, after)
            if rank is None:
                return None
            start = rank + 1
        found: list[AdapterRecord] = []
        dead: list[str] = []
        # A page, and whether there is more; further only where members were dead.
        offset, count, end = start, limit + 1, start + MAX_LIST_READS
        while offset < end:
            members = await self._members(tenant, offset, count)
            dead += [name for name, record in members if record is None]
            found += [record for _, record in members if record is not None and record.tenant == tenant]
            if len(found) > limit or len(members) < count:
                break
            offset += count
            count = min(LIST_LIMIT, end - offset)
        if dead:
            async with self._operation("prune"):
                await self._index.prune(tenant, dead)
        return Page(found[:limit], has_more=len(found) > limit)

    async def _members(self, tenant: str, offset: int, count: int) -> Sequence[tuple[str, AdapterRecord | None]]:
        async with self._operation("list"):
            ids = await self._index.names(tenant, offset, count)
            values = await self._each("get", [_key(name, "meta") for name in ids])
        return [
            (name, None if value is None else AdapterRecord.from_json(value))
            for name, value in zip(ids, values, strict=True)
        ]

    async def alive(self, ids: Iterable[str]) -> set[str]:
        """Which of these still exist."""
        names = [name for name in dict.fromkeys(ids) if is_adapter_id(name)]
        alive: set[str] = set()
        for begin in range(0, len(names), LIST_LIMIT):
            part = names[begin : begin + LIST_LIMIT]
            async with self._operation("alive"):
                flags = await self._each("exists", [_key(name, "meta") for name in part])
            alive |= {name for name, flag in zip(part, flags, strict=True) if flag}
        return alive

    async def _each(self, command: str, keys: Sequence[str]) -> Sequence[Any]:
        """One command for many keys in one round trip (one for each node of a cluster: the keys lie in different
        slots)."""
        if not keys:
            return []
        async with self._redis.pipeline(transaction=False) as pipeline:
            for key in keys:
                getattr(pipeline, command)(key)
            return list(await pipeline.execute())
