"""The sweep: what was deleted or has expired leaves vLLM's names and locks, the engine's memory and the file cache.

Only what no running request uses is touched. A request that arrives in between finds its name gone (404), or its files gone
and asks the store again (frontend.using); both are right for an adapter that was deleted.
"""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

from service.errors import StoreUnavailable
from service.ids import is_adapter_id
from service.vllm_plugin.hooks import logger

if TYPE_CHECKING:
    from service.vllm_plugin.frontend import Frontend

DEFAULT_PERIOD_S = 3.0
# Names of living adapters that vLLM may keep; a name that was dropped is resolved again at its next use.
MAX_NAMES = 10_000
# A name that was looked up is dropped for want of room only when it has rested this long.
MIN_REST_S = 60.0


class Sweep:
    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._files = frontend.files
        self._dropped = False
        self._period_s = float(os.environ.get("GENADAPTER_SWEEP_SECONDS", DEFAULT_PERIOD_S))

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            try:
                await self.once()
            except StoreUnavailable:
                pass  # nobody knows what is alive: everything stays
            except Exception:
                logger.exception("genadapter: the sweep failed")

    async def once(self) -> None:
        models = self._frontend.models
        if models is None:
            return
        names = [name for name in models.lora_requests if is_adapter_id(name)]
        known = set(names) | set(self._files.ids())
        alive = await (await self._frontend.store()).alive(known) if known else set()
        dead = {name for name in known - alive if not self._files.in_use(name)}
        for name in dead:
            self._forget(name)
            self._files.remove(name)
        self._forget_rested([name for name in names if name not in dead])
        self._drop_locks()
        if dead or self._dropped:  # and once more in the next round, for a load that was under way in this one
            await self._free_memory()
        self._dropped = bool(dead)
        self._frontend.metrics.swept.inc(len(dead))
        if dead:
            logger.info("genadapter: %d adapters swept away, %d kept", len(dead), len(alive))

    def _forget(self, name: str) -> None:
        self._frontend.models.lora_requests.pop(name, None)
        self._frontend.last_use_s.pop(name, None)

    def _forget_rested(self, names: list[str]) -> None:
        """Keep the number of names bounded: those that rested longest go first."""
        uses = self._frontend.last_use_s
        horizon_s = time.monotonic() - MIN_REST_S
        for name in sorted(names, key=lambda name: uses.get(name, 0.0))[: max(0, len(names) - MAX_NAMES)]:
            if uses.get(name, 0.0) < horizon_s and not self._files.in_use(name):
                self._forget(name)

    def _drop_locks(self) -> None:
        """vLLM makes a lock for every name it is asked for, also for unknown ones, and drops none."""
        models = self._frontend.models
        for name, lock in list(models.lora_resolver_lock.items()):
            if name not in models.lora_requests and not lock.locked() and not getattr(lock, "_waiters", None):
                del models.lora_resolver_lock[name]
        for name in set(self._frontend.last_use_s) - set(models.lora_requests) - self._files.used():
            del self._frontend.last_use_s[name]

    async def _free_memory(self) -> None:
        """Remove what the engine holds under no name: vLLM forgets names, not weights.

        Not asked for nothing: each call to vLLM's workers keeps them awake, in a busy loop, for a second.
        """
        models = self._frontend.models
        loaded = set(await models.engine_client.list_loras())
        named = {request.lora_int_id for request in models.lora_requests.values()}
        for lora_id in loaded - named:
            await models.engine_client.remove_lora(lora_id)
