"""The index of a tenant in the store: which adapters it has, when they end, and what room they take.

Three keys (see `store.py`) in one slot, changed by scripts that run whole or not at all. A state is a member of its own,
`ID:state`, that only takes room.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from service.errors import LimitReached
from service.limits import Limits, Usage
from service.records import AdapterRecord
from service.store_scripts import DROP_INDEX, PUT_INDEX, USAGE

# Members whose adapter is missing are pruned only when this old: a younger one may be about to be written.
PUBLISH_GRACE_S = 60.0


def _keys(tenant: str) -> tuple[str, str, str]:
    return f"ga:tenant:{{{tenant}}}:made", f"ga:tenant:{{{tenant}}}:ends", f"ga:tenant:{{{tenant}}}:sizes"


def milliseconds(seconds: float) -> int:
    return int(seconds * 1000)


def _usage(found: Sequence[Any]) -> Usage:
    """From what the scripts give."""
    adapters, size, first_ms = found
    return Usage(int(adapters), int(size), float(first_ms) / 1000 if first_ms else None)


def limit_reached(usage: Usage, limits: Limits, more_bytes: int = 0) -> LimitReached:
    reached = usage.reached(limits, more_bytes) or "You keep as much as you may"
    return LimitReached(f"{reached}: delete some adapters first.", retry_after_s=usage.wait_s(time.time()))


class TenantIndex:
    """What `Store` calls inside its own operations: errors of Redis pass through."""

    def __init__(self, client: Any) -> None:
        self._redis = client

    async def put(self, record: AdapterRecord, limits: Limits | None) -> None:
        """The adapter's place in the listing, and the room that it and its state take. Raises LimitReached: nothing is
        put then."""
        now_ms, expiry_ms = milliseconds(time.time()), milliseconds(record.expires_at)
        most, room = (limits.max_adapters, limits.max_bytes) if limits else (-1, -1)
        members: list[tuple[Any, ...]] = [
            (record.id, milliseconds(record.created_at), expiry_ms, now_ms, record.bytes, most, room)
        ]
        if record.state_expires_at is not None:
            state_ms = milliseconds(record.state_expires_at)
            # First: an adapter that is made anew for its state alone keeps its place when the state is refused.
            members.insert(0, (f"{record.id}:state", "", state_ms, now_ms, record.state_bytes, -1, room))
        keys = _keys(record.tenant)
        for place, member in enumerate(members):
            refused = await self._redis.eval(PUT_INDEX, len(keys), *keys, *member)
            if refused and limits:
                if place:
                    await self._redis.eval(DROP_INDEX, len(keys), *keys, record.id)
                raise limit_reached(_usage(refused), limits, member[4])

    async def drop(self, tenant: str, adapter_id: str) -> int:
        """How many were there."""
        return int(await self._redis.eval(DROP_INDEX, 3, *_keys(tenant), adapter_id))

    async def usage(self, tenant: str) -> Usage:
        return _usage(await self._redis.eval(USAGE, 3, *_keys(tenant), milliseconds(time.time())))

    async def rank(self, tenant: str, adapter_id: str) -> int | None:
        """The adapter's place among the tenant's, the newest first."""
        rank = await self._redis.zrevrank(_keys(tenant)[0], adapter_id)
        return None if rank is None else int(rank)

    async def names(self, tenant: str, start: int, count: int) -> list[str]:
        """Ids, newest first."""
        members = await self._redis.zrevrange(_keys(tenant)[0], start, start + count - 1)
        return [member.decode() for member in members]

    async def prune(self, tenant: str, dead: Iterable[str]) -> None:
        """Members that have no adapter, unless so young that it may be on its way."""
        horizon_ms = milliseconds(time.time() - PUBLISH_GRACE_S)
        for name in dead:
            created_ms = await self._redis.zscore(_keys(tenant)[0], name)
            if created_ms is not None and float(created_ms) < horizon_ms:
                await self.drop(tenant, name)
