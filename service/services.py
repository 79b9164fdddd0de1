"""What the routes work with: opened and closed by the app's lifespan, reached as `app.state.services`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any

from fastapi import Depends, Request

from service.audit import AuditLog, Who
from service.auth import Authenticator, Key
from service.backend import BackendHolder, Identity
from service.contextualizer import Contextualizer
from service.creation import Creator
from service.documents import DocumentParser
from service.engine import EngineClient
from service.errors import GenadapterError
from service.limits import Limits
from service.metrics import Metrics
from service.resolver import Resolver
from service.settings import Settings
from service.store import Store


@dataclass
class Services:
    settings: Settings
    identity: Identity
    authenticator: Authenticator
    audit: AuditLog
    metrics: Metrics
    store: Store
    resolver: Resolver
    # With the role contextualize
    parser: DocumentParser
    holder: BackendHolder
    contextualizer: Contextualizer
    creator: Creator
    # With the role generate
    engine: EngineClient
    load_expander: Callable[[], Any]
    stopping: bool = False
    _engine_model_seen: bool = False
    _expander: Any = None
    _expander_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def expander(self) -> Any:
        """What turns stored adapters into LoRAs; loaded at its first use, and kept."""
        async with self._expander_lock:
            if self._expander is None:
                self._expander = await asyncio.to_thread(self.load_expander)
        return self._expander

    def cache_salt(self, tenant: str, wish: object = None) -> dict[str, str]:
        """The field that keeps what the engine caches of one tenant's prompts from answering another's faster. `wish`: a
        caller's own, which divides further."""
        if self.authenticator.is_open:
            return {}
        return {"cache_salt": hashlib.sha256(f"{tenant}\0{wish or ''}".encode("utf-8", "surrogatepass")).hexdigest()}

    async def readiness(self) -> dict[str, str]:
        """Each part that this replica needs, and "ok" or what is wrong with it."""
        parts = {"store": await self._store_state()}
        if "generate" in self.settings.roles:
            parts["engine"] = await self._engine_state()
        if "contextualize" in self.settings.roles:
            parts["generator"] = "ok" if self.holder.state == "ready" else self.holder.state
        if self.stopping:
            parts["server"] = "stopping"
        for part, state in parts.items():
            self.metrics.part_ready.labels(part).set(state == "ok")
        return parts

    async def _store_state(self) -> str:
        try:
            await self.store.ping()
        except GenadapterError:
            return "does not answer"
        return "ok"

    async def _engine_state(self) -> str:
        problem = await self.engine.health()
        if problem or self._engine_model_seen:
            return problem or "ok"
        try:
            names = await self.engine.model_names()
        except GenadapterError:
            return "does not list its models"
        self._engine_model_seen = self.settings.model_name in names
        return "ok" if self._engine_model_seen else f"serves {', '.join(names)}, not {self.settings.model_name}"


async def get_services(request: Request) -> Services:  # a plain function would be run in a thread of its own
    services: Services = request.app.state.services
    return services


ServicesDep = Annotated[Services, Depends(get_services)]


@dataclass(frozen=True)
class Caller:
    """Whose request it is, and what its tenant may keep."""

    tenant: str
    who: Who
    limits: Limits


def who_asks(request: Request) -> Who:
    """As far as it is known: nobody's before the key was found good."""
    key: Key | None = getattr(request.state, "key", None)
    return Who(key.tenant if key else None, key.name if key else None, request.state.request_id)


async def get_caller(request: Request, services: ServicesDep) -> AsyncIterator[Caller]:
    """Raises Unauthorized, LimitReached. The request counts as its key's until the last byte of the answer."""
    key = services.authenticator.caller(request.headers.get("authorization"))
    request.state.key = key
    settings, own = services.settings, key.limits
    limits = Limits(settings.max_adapters, int(settings.max_adapter_bytes)).narrowed(own.max_adapters, own.max_bytes)
    with services.authenticator.in_flight(key):
        yield Caller(key.tenant, who_asks(request), limits)


CallerDep = Annotated[Caller, Depends(get_caller)]


async def get_tenant(caller: CallerDep) -> str:
    return caller.tenant


TenantDep = Annotated[str, Depends(get_tenant)]
