"""POST /generate: a completion of the base model, with an adapter or without."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from service.disconnect import ClosingStream, while_connected
from service.errors import DeadlinePassed, GenadapterError, Unprocessable
from service.generation import DONE, Answer, engine_request, read_pieces
from service.routes.documented import COMPLETES, json_body, or_events
from service.schemas import GenerateRequest, GenerateResponse
from service.services import Services, ServicesDep, TenantDep
from service.validation import parse_body, read_body, require_json

router = APIRouter(tags=["completions"])


class Generation:
    """One request on its way through the engine."""

    def __init__(self, services: Services, request: GenerateRequest, tenant: str) -> None:
        self.services, self.request, self.tenant = services, request, tenant
        self.answer = Answer()
        self.id = f"gen-{secrets.token_hex(16)}"
        self.resolve_ms = 0.0
        self._stack = AsyncExitStack()

    async def open(self) -> aiohttp.ClientResponse:
        """Checks the adapter and hands the request to the engine."""
        model, adapter_id = self.services.settings.model_name, self.request.adapter_id
        if adapter_id is not None:
            model = (await self.services.resolver.adapter(adapter_id, self.tenant)).id
        self.resolve_ms = (time.perf_counter() - self.answer.begin_s) * 1000
        path, body = engine_request(self.request, model)
        body |= self.services.cache_salt(self.tenant)
        return await self._stack.enter_async_context(self.services.engine.open(path, body, adapter_id))

    async def close(self) -> None:
        await self._stack.aclose()

    def body(self, choices: list[dict[str, Any]], *, finished: bool) -> dict[str, Any]:
        timings = {
            name: None if value is None else round(value, 3)
            for name, value in self.answer.timings_ms(self.resolve_ms).items()
        }
        return {
            "id": self.id,
            "adapter_id": self.request.adapter_id,
            "model": self.services.settings.model_name,
            "choices": choices,
            "usage": self.answer.usage if finished else None,
            "timings_ms": timings if finished else None,
        }

    async def whole(self) -> dict[str, Any]:
        try:
            response = await self.open()
            async for _ in read_pieces(self.services.engine, response, self.answer, self.request.adapter_id):
                pass
        finally:
            await self.close()
        self.answer.observe(self.services.metrics, self.request.adapter_id)
        with_logprobs = self.request.logprobs is not None
        return self.body([piece.public(with_logprobs) for piece in self.answer.pieces()], finished=True)

    async def events(self, response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
        """Server-sent events. What goes wrong now can be told in an event only; the end mark is missing then."""
        with_logprobs = self.request.logprobs is not None
        try:
            async with self.services.engine.deadline():
                async for pieces in read_pieces(self.services.engine, response, self.answer, self.request.adapter_id):
                    yield _event(self.body([piece.public(with_logprobs) for piece in pieces], finished=False))
        except TimeoutError:
            yield _event(DeadlinePassed().body())
            return
        except GenadapterError as error:
            yield _event(error.body())
            return
        self.answer.observe(self.services.metrics, self.request.adapter_id)
        yield _event(self.body([], finished=True))
        yield b"data: %s\n\n" % DONE


def _event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value, ensure_ascii=False)}\n\n".encode()


@router.post(
    "/generate",
    response_model=GenerateResponse,
    responses=or_events(*COMPLETES),
    openapi_extra=json_body(GenerateRequest),
)
async def generate(request: Request, services: ServicesDep, tenant: TenantDep) -> Response:
    """With `stream: true`: server-sent events of the same objects, ended by `data: [DONE]`."""
    require_json(request.headers.get("content-type"))
    wanted = parse_body(GenerateRequest, await read_body(request))
    longest = services.settings.max_completion_tokens
    if wanted.max_tokens > longest:
        raise Unprocessable(f"max_tokens: at most {longest}.", param="max_tokens")
    generation = Generation(services, wanted, tenant)
    try:
        async with services.engine.deadline():
            if not wanted.stream:
                return JSONResponse(await while_connected(request, generation.whole()))
            response = await while_connected(request, generation.open())
    except TimeoutError:
        await generation.close()
        raise DeadlinePassed() from None
    except BaseException:
        await generation.close()
        raise
    return ClosingStream(generation.events(response), generation.close, "text/event-stream")
