"""From text to a stored adapter: tokens, id, state, factors, store. The path of POST /contextualize, top to bottom."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

from service.audit import AuditLog, Who
from service.backend import BackendHolder
from service.contextualizer import Contextualizer, Encoded, Reading
from service.errors import AdapterDamaged, NoState, Unprocessable
from service.ids import WeightOptions, adapter_id
from service.limits import Limits
from service.metrics import Metrics
from service.records import AdapterRecord, checksum
from service.schemas import ContextualizeTimings
from service.store import Store
from service.tenant_index import limit_reached


@dataclass(frozen=True)
class CreateRequest:
    tenant: str
    text: str
    ttl_s: float
    strategy: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    keep_state: bool = False
    state_ttl_s: float = 0.0
    parent: AdapterRecord | None = None  # the adapter that this one goes on from
    limits: Limits | None = None
    who: Who | None = None

    def options(self, default_strategy: str) -> WeightOptions:
        if self.parent is not None:
            return WeightOptions(self.parent.strategy, self.keep_state, self.parent.id)
        return WeightOptions(self.strategy or default_strategy, self.keep_state)

    def state_end(self, now: float) -> float | None:
        """Unix time at which a state that is kept ends: with its adapter at the latest."""
        return now + min(self.state_ttl_s, self.ttl_s) if self.keep_state else None


@dataclass(frozen=True)
class Created:
    record: AdapterRecord
    reused: bool
    timings: ContextualizeTimings


@contextmanager
def _stopwatch() -> Iterator[Callable[[], float]]:
    """Gives a function that tells the milliseconds spent inside."""
    begin, end = time.perf_counter(), 0.0
    try:
        yield lambda: (end - begin) * 1000
    finally:
        end = time.perf_counter()


@dataclass
class _InFlight:
    """One creation that several identical requests wait for; it is cancelled when the last of them leaves."""

    task: asyncio.Task[Created]
    waiters: int = 0


class Creator:
    def __init__(
        self,
        *,
        store: Store,
        contextualizer: Contextualizer,
        holder: BackendHolder,
        model_name: str,
        metrics: Metrics,
        audit: AuditLog,
    ) -> None:
        self._store = store
        self._contextualizer = contextualizer
        self._holder = holder
        self._model_name = model_name
        self._metrics = metrics
        self._audit = audit
        self._in_flight: dict[str, _InFlight] = {}

    async def create(self, request: CreateRequest, parse_ms: float) -> Created:
        """The adapter of a text: the one there is, the one being made, or a new one."""
        backend = self._holder.get()
        timings = ContextualizeTimings(parse=parse_ms)
        with _stopwatch() as tokenize_ms:
            ids = await self._contextualizer.tokenize(request.text)
        timings.tokenize = tokenize_ms()
        if not ids:
            raise Unprocessable("The document holds no text.")
        options = request.options(backend.default_strategy)
        with _stopwatch() as store_ms:
            secret = await self._store.id_secret()
            name = adapter_id(secret, request.tenant, backend.base_fingerprint, backend.fingerprint, options, ids)
            existing = await self._reuse(name, request)
        timings.store = store_ms()
        if existing is None and name in self._in_flight:
            await self._join(name, self._in_flight[name])
            existing = await self._reuse(name, request)
        if existing is not None:
            self._note("reused", request, existing)
            return Created(existing, True, self._observed(timings))
        made = _InFlight(asyncio.create_task(self._make(name, request, ids, options, timings)))
        self._in_flight[name] = made
        made.task.add_done_callback(lambda _: self._leave(name, made))
        return await self._join(name, made)

    async def _reuse(self, name: str, request: CreateRequest) -> AdapterRecord | None:
        now = time.time()
        ends, state_ends = now + request.ttl_s, request.state_end(now)
        return await self._store.refresh(name, request.tenant, ends, request.metadata, state_ends)

    async def _join(self, name: str, made: _InFlight) -> Created:
        made.waiters += 1
        try:
            return await asyncio.shield(made.task)
        finally:
            made.waiters -= 1
            if made.waiters == 0 and not made.task.done():
                self._leave(name, made)  # before the task has ended: nobody may join what is being cancelled
                made.task.cancel()

    def _leave(self, name: str, made: _InFlight) -> None:
        if self._in_flight.get(name) is made:
            del self._in_flight[name]

    async def _make(
        self, name: str, request: CreateRequest, ids: list[int], options: WeightOptions, timings: ContextualizeTimings
    ) -> Created:
        backend = self._holder.get()
        await self._check_limits(request)
        parent = request.parent
        encoded = await self._encode(ids, options, parent)
        now = time.time()
        record = AdapterRecord(
            id=name,
            tenant=request.tenant,
            base_model=self._model_name,
            base_fingerprint=backend.base_fingerprint,
            generator_fingerprint=backend.fingerprint,
            strategy=options.strategy,
            created_at=now,
            expires_at=now + request.ttl_s,
            tokens=encoded.tokens,
            chunks=encoded.chunks,
            rank=encoded.rank,
            bytes=len(encoded.payload),
            sha256=checksum(encoded.payload),
            parent=None if parent is None else parent.id,
            state_bytes=len(encoded.state or b""),
            state_expires_at=request.state_end(now),
            metadata=request.metadata,
        )
        with _stopwatch() as store_ms:
            record = await self._store.publish(record, encoded.payload, request.limits, encoded.state)
        stages = {"queue": encoded.queue_ms, "forward": encoded.forward_ms, "factorize": encoded.factorize_ms}
        timings = timings.model_copy(update={**stages, "store": timings.store + store_ms()})
        self._note("created", request, record)
        self._metrics.document_tokens.observe(record.tokens)
        self._metrics.adapter_bytes.observe(record.bytes)
        return Created(record, False, self._observed(timings))

    async def _encode(self, ids: list[int], options: WeightOptions, parent: AdapterRecord | None) -> Encoded:
        """Raises NoState, AdapterDamaged, and what the queue raises."""
        before = None if parent is None else partial(self._state_of, parent)
        try:
            return await self._contextualizer.encode(Reading(ids, options.strategy, options.keep_state, before))
        except AdapterDamaged:
            if parent is not None:  # its state
                await self._store.drop_state(parent.id)
            raise

    async def _state_of(self, parent: AdapterRecord) -> bytes:
        """Raises NoState, StoreUnavailable."""
        state = await self._store.state(parent.id)
        if state is None:
            raise NoState(param="id")
        return state

    def _note(self, outcome: str, request: CreateRequest, record: AdapterRecord) -> None:
        self._metrics.adapters.labels(outcome).inc()
        if request.who is not None:
            facts = {"bytes": record.bytes, "tokens": record.tokens, "expires_at": int(record.expires_at)}
            self._audit.write(outcome, request.who, record.id, parent=record.parent, **facts)

    async def _check_limits(self, request: CreateRequest) -> None:
        """Before the work; the store holds to the limits when it publishes. Raises LimitReached."""
        if request.limits is not None:
            usage = await self._store.usage(request.tenant)
            if usage.reached(request.limits):
                raise limit_reached(usage, request.limits)

    def _observed(self, timings: ContextualizeTimings) -> ContextualizeTimings:
        for stage, milliseconds in timings.model_dump().items():
            self._metrics.stage_seconds.labels(stage).observe(milliseconds / 1000)
        return timings
