"""May this caller use this model name? The check in front of every completion."""

from __future__ import annotations

import time
from collections import OrderedDict

from service.backend import Identity
from service.errors import AdapterMismatch, AdapterNotFound, GenadapterError, ModelNotFound, StoreUnavailable
from service.ids import is_adapter_id
from service.metrics import Metrics
from service.records import AdapterRecord
from service.store import Store

# Adapters checked lately, which keep answering while the store is away (the engine has them). Nothing can be deleted
# meanwhile, so an answer is stale only for an adapter deleted, through another replica, shortly before.
REMEMBERED = 4096
REMEMBERED_S = 3600.0


class Resolver:
    def __init__(self, store: Store, identity: Identity, metrics: Metrics) -> None:
        self._store = store
        self._identity = identity
        self._metrics = metrics
        self._verified: OrderedDict[tuple[str, str], tuple[AdapterRecord, float]] = OrderedDict()

    @property
    def model_name(self) -> str:
        return self._identity.model_name

    async def model(self, name: str, tenant: str) -> str | None:
        """The adapter id that a model name stands for, None for the base model. Raises ModelNotFound and what
        `adapter` raises."""
        if name == self.model_name:
            return None
        if not is_adapter_id(name):
            raise ModelNotFound(param="model")
        return (await self.adapter(name, tenant, "model")).id

    async def adapter(self, adapter_id: str, tenant: str, param: str | None = "adapter_id") -> AdapterRecord:
        """Raises AdapterNotFound (unknown, expired, someone else's), AdapterMismatch, StoreUnavailable."""
        outcome = "found"
        try:
            record = await self.owned(adapter_id, tenant, param)
            self._check_fit(record, param)
            return record
        except GenadapterError as error:
            outcome = error.code
            raise
        finally:
            self._metrics.resolves.labels(outcome).inc()

    async def owned(self, adapter_id: str, tenant: str, param: str | None = None) -> AdapterRecord:
        """The tenant's record, whether or not it fits what is served."""
        key = (adapter_id, tenant)
        try:
            record = await self._store.get(adapter_id)
        except StoreUnavailable:
            record = self._remembered(key)
            if record is None:
                raise
            return record
        if record is None or record.tenant != tenant:
            self._verified.pop(key, None)
            raise AdapterNotFound(param=param, adapter_id=adapter_id, foreign=record is not None)
        self._verified[key] = (record, time.monotonic() + REMEMBERED_S)
        self._verified.move_to_end(key)
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)
        return record

    def forget(self, adapter_id: str, tenant: str) -> None:
        self._verified.pop((adapter_id, tenant), None)

    def _remembered(self, key: tuple[str, str]) -> AdapterRecord | None:
        record, until = self._verified.get(key, (None, 0.0))
        if record is None or time.monotonic() > until or time.time() > record.expires_at:
            return None
        return record

    def _check_fit(self, record: AdapterRecord, param: str | None) -> None:
        served = self._identity
        same_base = record.base_fingerprint == served.base_fingerprint or not served.base_fingerprint
        if not same_base or record.generator_fingerprint != served.generator_fingerprint:
            raise AdapterMismatch(param=param)
