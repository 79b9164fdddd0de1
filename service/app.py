"""The app: parts put together, nothing decided here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from pydantic.json_schema import models_json_schema
from starlette.exceptions import HTTPException
from starlette.responses import Response

from service.audit import AuditLog
from service.auth import Authenticator
from service.backend import Backend, BackendHolder, Identity, load_backend, load_expander, read_identity
from service.contextualizer import Contextualizer
from service.creation import Creator
from service.documents import DocumentParser
from service.engine import EngineClient
from service.errors import (
    AdapterDamaged,
    AdapterNotFound,
    GenadapterError,
    LimitReached,
    MethodNotAllowed,
    NotFound,
    RequestError,
    Unauthorized,
)
from service.metrics import Metrics
from service.middleware import BodyLimit, RequestContext, RequestLimit
from service.resolver import Resolver
from service.routes import adapters, contextualize, docs, generate, health, openai, playground
from service.schemas import ContextualizeRequest, GenerateRequest
from service.services import Services, who_asks
from service.settings import Settings, SettingsError
from service.store import Store
from service.validation import explain

logger = logging.getLogger(__name__)

VERSION = "0.1.0"
DESCRIPTION = "Turns a document or a conversation into LoRA weights with one forward pass, and answers with them."
# The store's and the engine's addresses where none is set: tests and split roles; `serve` sets both.
DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
DEFAULT_ENGINE_URL = "http://127.0.0.1:8001"


@dataclass(frozen=True)
class Loaders:
    """How the generator's parts are loaded: the one seam that tests without a model replace."""

    backend: Callable[[Settings], Backend] = load_backend
    identity: Callable[[Settings], Identity] = read_identity
    expander: Callable[[Settings], Any] = load_expander


def create_app(settings: Settings, loaders: Loaders | None = None) -> FastAPI:
    metrics = Metrics()
    app = FastAPI(
        title="genadapter",
        version=VERSION,
        description=DESCRIPTION,
        redirect_slashes=False,
        docs_url=None,  # service/routes/docs.py
        redoc_url=None,
        lifespan=partial(_lifespan, settings=settings, loaders=loaders or Loaders(), metrics=metrics),
    )
    for router in (health.router, adapters.router, playground.router, docs.router):
        app.include_router(router)
    if "contextualize" in settings.roles:
        app.include_router(contextualize.router)
    if "generate" in settings.roles:
        app.include_router(generate.router)
        app.include_router(openai.router)
    for error, handler in ERROR_HANDLERS.items():
        app.add_exception_handler(error, handler)
    app.add_middleware(
        BodyLimit, max_bytes=int(settings.max_body_bytes), max_held_bytes=int(settings.max_buffered_bytes)
    )
    app.add_middleware(RequestLimit, max_requests=settings.max_requests)
    app.add_middleware(RequestContext, metrics=metrics)  # added last: outermost
    app.openapi = partial(_openapi, app)  # type: ignore[method-assign]
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI, settings: Settings, loaders: Loaders, metrics: Metrics) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        app.state.services = await open_services(settings, loaders, metrics, stack)
        yield
        app.state.services.stopping = True


async def open_services(settings: Settings, loaders: Loaders, metrics: Metrics, stack: AsyncExitStack) -> Services:
    """Opens every part; the stack closes them in the opposite order. The generator goes on loading after this
    returns."""
    authenticator = Authenticator(settings.api_keys_file)
    audit = _open_audit(settings)
    stack.callback(audit.close)
    store = await _open_store(settings, metrics)
    stack.push_async_callback(store.close)
    engine = _open_engine(settings, metrics)
    stack.push_async_callback(engine.close)
    holder = BackendHolder(partial(loaders.backend, settings))
    contextualizer = Contextualizer(holder, settings, metrics)
    if "contextualize" in settings.roles:
        contextualizer.start()
    stack.push_async_callback(contextualizer.close, settings.shutdown_grace.total_seconds())
    identity = await asyncio.to_thread(loaders.identity, settings)
    return Services(
        settings=settings,
        identity=identity,
        authenticator=authenticator,
        audit=audit,
        metrics=metrics,
        store=store,
        resolver=Resolver(store, identity, metrics),
        parser=_open_parser(settings, metrics),
        holder=holder,
        contextualizer=contextualizer,
        creator=Creator(
            store=store,
            contextualizer=contextualizer,
            holder=holder,
            model_name=settings.model_name,
            metrics=metrics,
            audit=audit,
        ),
        engine=engine,
        load_expander=partial(loaders.expander, settings),
    )


def _open_audit(settings: Settings) -> AuditLog:
    try:
        return AuditLog(settings.audit_log, int(settings.audit_log_bytes))
    except OSError as error:
        raise SettingsError(f"GENADAPTER_AUDIT_LOG {settings.audit_log} cannot be written: {error.strerror}") from None


async def _open_store(settings: Settings, metrics: Metrics) -> Store:
    return await Store.open(
        settings.redis_url.get_secret_value() if settings.redis_url else DEFAULT_REDIS_URL,
        timeout_s=settings.redis_timeout.total_seconds(),
        connections=settings.redis_connections,
        observe=metrics.observe_store,
    )


def _open_engine(settings: Settings, metrics: Metrics) -> EngineClient:
    return EngineClient(
        settings.engine_url or DEFAULT_ENGINE_URL,
        api_key=settings.engine_api_key.get_secret_value() if settings.engine_api_key else None,
        deadline_s=settings.generate_deadline.total_seconds(),
        max_in_flight=settings.max_in_flight,
        metrics=metrics,
    )


def _open_parser(settings: Settings, metrics: Metrics) -> DocumentParser:
    return DocumentParser(
        workers=settings.parse_workers,
        timeout_s=settings.parse_timeout.total_seconds(),
        memory_bytes=int(settings.parse_memory_bytes),
        unpacked_bytes=int(settings.max_unpacked_bytes),
        observe=lambda kind, outcome: metrics.documents_parsed.labels(kind, outcome).inc(),
    )


async def _answer_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, GenadapterError):
        raise error
    if error.status >= 500:
        logger.warning("request %s: %s: %s", request.state.request_id, error.code, error)
    if isinstance(error, AdapterDamaged):
        request.app.state.services.metrics.adapters.labels("damaged").inc()
    _audit_refusal(request, error)
    return JSONResponse(error.body(), status_code=error.status, headers=error.headers())


def _audit_refusal(request: Request, error: GenadapterError) -> None:
    audit: AuditLog = request.app.state.services.audit
    if isinstance(error, AdapterNotFound):
        audit.denied(who_asks(request), "someone else's" if error.foreign else "not there", error.adapter_id)
    elif isinstance(error, Unauthorized):
        audit.denied(who_asks(request), "no valid key")
    elif isinstance(error, LimitReached):
        audit.denied(who_asks(request), "limit")


async def _answer_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, no such method."""
    known: dict[int, GenadapterError] = {404: NotFound(), 405: MethodNotAllowed()}
    status = error.status_code if isinstance(error, HTTPException) else 500
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    body = known.get(status, RequestError()).body()
    return JSONResponse(body, status_code=status, headers=headers)


async def _answer_invalid(request: Request, error: Exception) -> Response:
    """FastAPI's own, for query parameters."""
    if not isinstance(error, RequestValidationError):
        raise error
    items: Sequence[Any] = [item | {"loc": item["loc"][1:], "input": None} for item in error.errors()]
    return await _answer_error(request, explain(items))


ERROR_HANDLERS: dict[type[Exception], Callable[[Request, Exception], Any]] = {
    GenadapterError: _answer_error,
    HTTPException: _answer_http_error,
    RequestValidationError: _answer_invalid,
}


def _openapi(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, with the bodies that handlers read themselves, and without its own form of errors."""
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        bodies: list[Any] = [(ContextualizeRequest, "validation"), (GenerateRequest, "validation")]
        _, definitions = models_json_schema(bodies, ref_template="#/components/schemas/{model}")
        components = schema.setdefault("components", {}).setdefault("schemas", {})
        components.update(definitions["$defs"])
        for name in ("HTTPValidationError", "ValidationError"):
            components.pop(name, None)
        for path in schema["paths"].values():
            for operation in path.values():
                invalid = operation["responses"].get("422", {})
                if "HTTPValidationError" in str(invalid):
                    invalid["content"] = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorBody"}}}
        app.openapi_schema = schema
    return app.openapi_schema
