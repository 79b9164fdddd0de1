"""The client of vLLM's OpenAI server: opens completions, turns its errors into ours, and lets go when the caller
does."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Any

import aiohttp

from service.errors import (
    AdapterDamaged,
    AdapterMismatch,
    AdapterNotFound,
    BadRequest,
    Busy,
    DeadlinePassed,
    EngineUnavailable,
    GenadapterError,
    TooLarge,
    Unprocessable,
)
from service.metrics import Metrics

logger = logging.getLogger(__name__)

CONNECT_S = 3.0
# vLLM closes a connection that is idle for 5 s; one that is closed just when it is taken again looks like an engine that died.
KEEP_S = 2.0
HEALTH_TIMEOUT = aiohttp.ClientTimeout(total=2.0)
# Beside the completions in flight: those that look after the engine's health.
SPARE_CONNECTIONS = 8
# Of an error's text: one line that a caller can use, and no more of the engine's inside.
MAX_MESSAGE = 400
MAX_ERROR_BYTES = 64 * 1024
# Fields with schemas and grammars, which the engine compiles; and vLLM's words, under status 500, for one that it cannot compile
# (and for other ends of a single request).
GRAMMAR_FIELDS = ("response_format", "structured_outputs", "tools")
FAILED_INSIDE = "Internal server error"
# vLLM's words, under status 400, for an adapter that its worker could not load: deleted meanwhile, or the store is away. It is
# no fault of the request; asked again, it is there, or it is said to be gone.
NOT_LOADED = "was found but could not be loaded"


class EngineClient:
    """`base_url` may change: an embedded engine that starts anew may listen elsewhere."""

    def __init__(
        self, base_url: str, *, api_key: str | None, deadline_s: float, max_in_flight: int, metrics: Metrics
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._deadline_s = deadline_s
        self._max_in_flight = max_in_flight
        self._in_flight = 0
        self._metrics = metrics
        # Not httpx: its parser is Python, and every event of every stream passes it on the cores that the engine computes on.
        # Proxies of the environment stay out of it (trust_env is off by default).
        self._http = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=deadline_s),
            connector=aiohttp.TCPConnector(limit=max_in_flight + SPARE_CONNECTIONS, keepalive_timeout=KEEP_S),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
            cookie_jar=aiohttp.DummyCookieJar(),
        )

    async def close(self) -> None:
        await self._http.close()

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def health(self) -> str | None:
        """None when the engine can serve, else why not, in words."""
        try:
            async with self._look("/health") as response:
                return None if response.status == HTTPStatus.OK else f"answers with status {response.status}"
        except (aiohttp.ClientError, TimeoutError):
            return "does not answer"

    async def model_names(self) -> list[str]:
        """Names of the base models that the engine serves. Raises EngineUnavailable."""
        try:
            async with self._look("/v1/models") as response:
                if response.status != HTTPStatus.OK:
                    raise ValueError(response.status)
                return [item["id"] for item in (await response.json())["data"] if not item.get("parent")]
        except (aiohttp.ClientError, TimeoutError, ValueError, KeyError, TypeError) as error:
            raise EngineUnavailable("the engine's models cannot be listed") from error

    def _look(self, path: str) -> Any:
        """A short GET. Redirects are followed nowhere: what answers must be the engine itself."""
        return self._http.get(self.base_url + path, timeout=HEALTH_TIMEOUT, allow_redirects=False)

    @contextlib.asynccontextmanager
    async def open(
        self, path: str, body: dict[str, Any], adapter_id: str | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A response with status 200 whose body is yet to be read; leaving the context aborts what still runs in the
        engine.

        Raises what the contract knows: BadRequest, AdapterNotFound, Busy, EngineUnavailable, DeadlinePassed, ...
        """
        if self._in_flight >= self._max_in_flight:
            raise Busy
        self._in_flight += 1
        try:
            async with contextlib.AsyncExitStack() as stack:
                with self._translated():
                    response = await stack.enter_async_context(await self._post(path, body))
                    if response.status != HTTPStatus.OK:
                        error = await _read_error(response)
                        if is_of_grammar(response.status, error, body):
                            raise BadRequest("The schema or grammar of this request cannot be used.")
                        raise upstream_error(response.status, error, adapter_id)
                yield response
        finally:
            self._in_flight -= 1

    async def _post(self, path: str, body: dict[str, Any]) -> aiohttp.ClientResponse:
        """Sent once more where the connection was closed before any answer: a kept one whose time was over, most likely."""
        with contextlib.suppress(aiohttp.ServerDisconnectedError):
            return await self._http.post(self.base_url + path, json=body, allow_redirects=False)
        return await self._http.post(self.base_url + path, json=body, allow_redirects=False)

    async def lines(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """Without their ends, which are "\\n"; no bound on their length but the engine's own."""
        rest = b""
        async for chunk in self.chunks(response):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                yield line
        if rest:
            yield rest

    async def chunks(self, response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        """The body as it comes in."""
        with self._translated():
            async for chunk in response.content.iter_any():
                yield chunk

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except aiohttp.ServerTimeoutError as error:
            self._metrics.engine_errors.labels("timeout").inc()
            raise (EngineUnavailable if isinstance(error, aiohttp.ConnectionTimeoutError) else DeadlinePassed)(
                "the engine is slow"
            ) from error
        except aiohttp.ClientError as error:
            self._metrics.engine_errors.labels("connection").inc()
            logger.warning("engine: %s", type(error).__name__)
            raise EngineUnavailable("the engine cannot be reached") from error
        except GenadapterError as error:
            if error.status >= EngineUnavailable.status:
                self._metrics.engine_errors.labels("answer").inc()
            raise

    def deadline(self) -> asyncio.Timeout:
        return asyncio.timeout(self._deadline_s)


async def _read_error(response: aiohttp.ClientResponse) -> dict[str, Any]:
    """The engine's error object, or an empty one."""
    data = b""
    async for chunk in response.content.iter_any():
        data += chunk
        if len(data) > MAX_ERROR_BYTES:
            return {}
    return error_object(data)


def error_object(data: bytes | str) -> dict[str, Any]:
    with contextlib.suppress(ValueError):
        value = json.loads(data)
        if isinstance(value, dict):
            error = value.get("error", value)
            return error if isinstance(error, dict) else {"message": str(error)}
    return {}


def is_of_grammar(status: int, error: dict[str, Any], body: dict[str, Any]) -> bool:
    """Whether the engine blames itself for what it could not compile."""
    blames_itself = status == HTTPStatus.INTERNAL_SERVER_ERROR and error.get("message") == FAILED_INSIDE
    return blames_itself and any(body.get(name) for name in GRAMMAR_FIELDS)


def upstream_error(status: int, error: dict[str, Any], adapter_id: str | None) -> GenadapterError:
    """One of ours for the engine's. What the engine says of the request is passed on, what it says of itself is not."""
    message = str(error.get("message") or "").strip().split("\n")[0][:MAX_MESSAGE]
    param = error.get("param") if isinstance(error.get("param"), str) else None
    if status == 404 and adapter_id is not None:
        return AdapterNotFound(param="model")
    if status == 409:
        return AdapterMismatch()
    if status == 400 and adapter_id is not None and NOT_LOADED in message:
        return EngineUnavailable("the adapter was not loaded")
    if status == AdapterDamaged.status and message == AdapterDamaged.public:  # our plugin's words
        return AdapterDamaged(adapter_id)
    answers = {400: BadRequest, 413: TooLarge, 422: Unprocessable, 429: Busy}
    if status in answers and message:
        return answers[status](message, param=param)
    if status == 504:
        return DeadlinePassed(message)
    logger.warning("engine: status %d: %s", status, message)
    return EngineUnavailable(f"status {status}")
