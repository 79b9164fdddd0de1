"""/v1/*: OpenAI's API as vLLM speaks it, for the three routes of the contract; the caller's adapters are model
names."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from fastapi import APIRouter, Request, Response

from service.disconnect import ClosingStream, while_connected
from service.engine import GRAMMAR_FIELDS
from service.errors import BadRequest, DeadlinePassed, GenadapterError, StoreUnavailable, TooLarge, Unprocessable
from service.routes.documented import COMPLETES, READS, error_responses, free_body, or_events
from service.schemas import EXAMPLE_ID, MAX_CHOICES
from service.services import Services, ServicesDep, TenantDep
from service.settings import Settings
from service.store import LIST_LIMIT
from service.validation import parse_object, read_body, require_json

router = APIRouter(prefix="/v1", tags=["OpenAI"])

# A list of prompts is a batch; each prompt becomes a request in the engine.
MAX_PROMPTS = 64
# Would name the request inside the engine, where two of one name collide.
DROPPED_FIELDS = ("request_id",)
# Name hosts that the engine would talk to, or hand it tensors to unpack.
REFUSED_FIELDS = ("kv_transfer_params", "ec_transfer_params", "prompt_embeds")
# Of a message's content. What else there is names addresses to fetch from, or carries files to unpack.
TEXT_PARTS = frozenset({"text", "refusal", "thinking"})
CHAT_EXAMPLE = {"model": EXAMPLE_ID, "messages": [{"role": "user", "content": "Where is my boat?"}], "max_tokens": 64}
PROMPT_EXAMPLE = {"model": EXAMPLE_ID, "prompt": "The boat is moored at", "max_tokens": 16}


@router.get("/models", responses=error_responses(*READS))
async def list_models(services: ServicesDep, tenant: TenantDep) -> dict[str, Any]:
    """The base model, and your newest adapters (GET /adapters lists all)."""
    name = services.settings.model_name
    data = [{"id": name, "object": "model", "created": 0, "owned_by": "genadapter", "parent": None}]
    try:
        page = await services.store.list(tenant, LIST_LIMIT)
    except StoreUnavailable:
        page = None  # the base model answers without the store
    for record in page.records if page else []:
        created = int(record.created_at)
        data.append({"id": record.id, "object": "model", "created": created, "owned_by": "genadapter", "parent": name})
    return {"object": "list", "data": data}


@router.post(
    "/chat/completions",
    responses=or_events(*COMPLETES),
    openapi_extra=free_body(["model", "messages"], CHAT_EXAMPLE),
)
async def chat_completions(request: Request, services: ServicesDep, tenant: TenantDep) -> Response:
    """OpenAI's chat completions; `model` is the base model's name or an adapter id."""
    return await _forward(request, services, tenant, "/v1/chat/completions")


@router.post(
    "/completions", responses=or_events(*COMPLETES), openapi_extra=free_body(["model", "prompt"], PROMPT_EXAMPLE)
)
async def completions(request: Request, services: ServicesDep, tenant: TenantDep) -> Response:
    """OpenAI's completions; `model` is the base model's name or an adapter id."""
    return await _forward(request, services, tenant, "/v1/completions")


async def _forward(request: Request, services: Services, tenant: str, path: str) -> Response:
    require_json(request.headers.get("content-type"))
    body = parse_object(await read_body(request))
    _check(body, services.settings)
    begin = time.perf_counter()
    adapter_id = await services.resolver.model(body["model"], tenant)
    # What was checked is sent, not the bytes that came: no second parser can read another model name from them.
    body = {name: value for name, value in body.items() if name not in DROPPED_FIELDS}
    body |= services.cache_salt(tenant, body.get("cache_salt"))
    stack = AsyncExitStack()
    opening = stack.enter_async_context(services.engine.open(path, body, adapter_id))
    try:
        async with services.engine.deadline():
            response = await while_connected(request, opening)
            if not body.get("stream"):
                content = await while_connected(request, _whole(services, response))
                await stack.aclose()
                services.metrics.generate_seconds.labels(_label(adapter_id)).observe(time.perf_counter() - begin)
                return Response(content, media_type="application/json")
    except TimeoutError:
        await stack.aclose()
        raise DeadlinePassed() from None
    except BaseException:
        await stack.aclose()
        raise
    return ClosingStream(_events(services, response, adapter_id, begin), stack.aclose, "text/event-stream")


async def _whole(services: Services, response: aiohttp.ClientResponse) -> bytes:
    return b"".join([chunk async for chunk in services.engine.chunks(response)])


async def _events(
    services: Services, response: aiohttp.ClientResponse, adapter_id: str | None, begin_s: float
) -> AsyncGenerator[bytes]:
    """The engine's bytes as they are. If it breaks off, an error event follows, and no end mark."""
    first = True
    try:
        async with services.engine.deadline():
            async for chunk in services.engine.chunks(response):
                if first:
                    services.metrics.first_token_seconds.labels(_label(adapter_id)).observe(
                        time.perf_counter() - begin_s
                    )
                    first = False
                yield chunk
    except TimeoutError:
        yield f"data: {json.dumps(DeadlinePassed().body())}\n\n".encode()
    except GenadapterError as error:
        yield f"data: {json.dumps(error.body())}\n\n".encode()
    services.metrics.generate_seconds.labels(_label(adapter_id)).observe(time.perf_counter() - begin_s)


def _label(adapter_id: str | None) -> str:
    return "with" if adapter_id else "without"


def _check(body: dict[str, Any], settings: Settings) -> None:
    """What decides who is served, and what would let one request take the whole engine; the rest is the engine's to
    judge."""
    if not isinstance(body.get("model"), str):
        raise BadRequest("The field 'model' must name the base model or an adapter id.", param="model")
    for name in REFUSED_FIELDS:
        if body.get(name) is not None:
            raise BadRequest(f"The field '{name}' is not taken.", param=name)
    for name in GRAMMAR_FIELDS:
        if body.get(name) is not None and len(json.dumps(body[name])) > settings.max_grammar_bytes:
            raise TooLarge(f"{name}: at most {settings.max_grammar_bytes} bytes are taken.", param=name)
    if not _is_text(body.get("messages")):
        raise BadRequest("messages: only text is taken.", param="messages")
    if not isinstance(body.get("stream") or False, bool):
        raise BadRequest("stream: true or false is needed.", param="stream")
    _check_range(body, "n", 1, MAX_CHOICES)
    _check_range(body, "best_of", 1, MAX_CHOICES)
    for name in ("max_tokens", "max_completion_tokens"):
        _check_range(body, name, 0 if name in body and body.get("echo") else 1, settings.max_completion_tokens)
    prompt = body.get("prompt")
    if isinstance(prompt, list) and len(prompt) > MAX_PROMPTS and not isinstance(prompt[0], int):
        raise Unprocessable(f"prompt: at most {MAX_PROMPTS} prompts are taken in one request.", param="prompt")


def _is_text(messages: object) -> bool:
    """Whether no message brings anything else; its form is the engine's to judge."""
    contents = [message.get("content") for message in _dicts(messages)]
    return all(str(part.get("type")) in TEXT_PARTS for content in contents for part in _dicts(content))


def _dicts(value: object) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _check_range(body: dict[str, Any], name: str, low: int, high: int) -> None:
    value = body.get(name)
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool):
        raise BadRequest(f"{name}: a whole number is needed.", param=name)
    if not low <= value <= high:
        raise Unprocessable(f"{name}: {low} to {high}.", param=name)
