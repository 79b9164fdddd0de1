"""POST /contextualize: text, a conversation, documents or files become an adapter. POST /adapters/{id}/append: a new
adapter that knows more. POST /contextualize/text: the text alone."""

from __future__ import annotations

import asyncio
import time

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.creation import Created, CreateRequest
from service.disconnect import while_connected
from service.errors import AdapterMismatch, DeadlinePassed, NoState, Unprocessable
from service.records import AdapterRecord
from service.routes.documented import CREATES, OF_ADAPTER, error_responses, json_body
from service.routes.source import read_source
from service.schemas import ContextualizeOptions, ContextualizeRequest, ContextualizeResponse, SourceText
from service.services import Caller, CallerDep, Services, ServicesDep

router = APIRouter(tags=["adapters"])

REUSED = {
    "model": ContextualizeResponse,
    "description": "You have this adapter already; its life is prolonged as asked, never shortened",
}


@router.post(
    "/contextualize",
    status_code=201,
    response_model=ContextualizeResponse,
    responses={**error_responses(*CREATES), 200: REUSED},
    openapi_extra=json_body(ContextualizeRequest, multipart=True),
)
async def contextualize(request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Reads a document once and keeps what it says as weights. The same request again gives the same adapter, at
    once."""
    return await _create(request, services, caller, None)


@router.post(
    "/contextualize/text",
    response_model=SourceText,
    responses=error_responses(*CREATES),
    openapi_extra=json_body(ContextualizeRequest, multipart=True),
)
async def source_text(request: Request, services: ServicesDep, caller: CallerDep) -> SourceText:
    """What POST /contextualize would read, as text: what is got out of a PDF, or what to put into a prompt instead. Nothing is
    kept."""
    try:
        async with asyncio.timeout(services.settings.contextualize_deadline.total_seconds()):
            text, _ = await read_source(request, services)
    except TimeoutError:
        raise DeadlinePassed() from None
    return SourceText(text=text)


@router.post(
    "/adapters/{adapter_id}/append",
    status_code=201,
    response_model=ContextualizeResponse,
    responses={**error_responses(*CREATES, *OF_ADAPTER, AdapterMismatch, NoState), 200: REUSED},
    openapi_extra=json_body(ContextualizeRequest, multipart=True),
)
async def append(adapter_id: str, request: Request, services: ServicesDep, caller: CallerDep) -> Response:
    """Reads only the new text, and adds it to what an adapter made with `keep_state` knows. The answer is a new adapter
    whose `parent` is the old one, which stays as it is."""
    parent = await services.resolver.adapter(adapter_id, caller.tenant, "id")
    if not parent.has_state(time.time()):
        raise NoState(param="id")
    return await _create(request, services, caller, parent)


async def _create(request: Request, services: Services, caller: Caller, parent: AdapterRecord | None) -> Response:
    try:
        async with asyncio.timeout(services.settings.contextualize_deadline.total_seconds()):
            begin = time.perf_counter()
            text, options = await read_source(request, services)
            if parent is not None and options.strategy not in (None, parent.strategy):
                raise Unprocessable(f"strategy: the adapter was made with '{parent.strategy}'.", param="strategy")
            wanted = CreateRequest(
                caller.tenant,
                text,
                _ttl_s(options, services),
                options.strategy,
                options.metadata,
                # What is appended to is most often appended to again.
                keep_state=parent is not None if options.keep_state is None else options.keep_state,
                state_ttl_s=services.settings.state_ttl.total_seconds(),
                parent=parent,
                limits=caller.limits,
                who=caller.who,
            )
            parse_ms = (time.perf_counter() - begin) * 1000
            created = await while_connected(request, services.creator.create(wanted, parse_ms))
    except TimeoutError:
        raise DeadlinePassed() from None
    return _answer(created)


def _answer(created: Created) -> Response:
    timings = {stage: round(value, 3) for stage, value in created.timings.model_dump().items()}
    body = created.record.public() | {"reused": created.reused, "timings_ms": timings}
    return JSONResponse(body, status_code=200 if created.reused else 201)


def _ttl_s(options: ContextualizeOptions, services: Services) -> float:
    if options.ttl_seconds is None:
        return services.settings.default_ttl.total_seconds()
    longest = int(services.settings.max_ttl.total_seconds())
    if options.ttl_seconds > longest:
        raise Unprocessable(f"ttl_seconds: at most {longest}.", param="ttl_seconds")
    return float(options.ttl_seconds)
