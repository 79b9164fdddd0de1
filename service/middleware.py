"""What wraps every request: its id, its metrics, the last catch of errors, and the limits on requests and body bytes."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import secrets
import time
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.disk import is_full
from service.errors import Busy, GenadapterError, ServerFault, TooLarge, Unavailable
from service.metrics import Metrics

logger = logging.getLogger("service.requests")

REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
# Most clients read the answer only after they have sent their body: what is too long is read on and thrown away, up
# to here.
DRAIN_BYTES = 256 * 1024**2
DRAIN_S = 10.0
# Those who look after the service are answered however busy it is.
UNCOUNTED = frozenset({"/healthz", "/readyz", "/metrics"})


def error_message(error: GenadapterError) -> list[Message]:
    """The ASGI messages of an error's response."""
    body = json.dumps(error.body()).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    return [
        {"type": "http.response.start", "status": error.status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]


def _as_answer(error: Exception, request_id: str) -> GenadapterError:
    if isinstance(error, GenadapterError):
        return error
    if is_full(error):  # of long uploads, and of downloads being packed
        logger.error("request %s failed: the disk of temporary files is full", request_id)
        return Unavailable()
    logger.exception("request %s failed", request_id, exc_info=error)
    return ServerFault()


class RequestContext:
    """Outermost: gives the request an id (a sane one from the client is kept), counts it, and lets no exception
    through."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        asked = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        request_id = asked if REQUEST_ID.fullmatch(asked) else secrets.token_hex(16)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request_id.encode())]
            await send(message)

        begin = time.perf_counter()
        self.metrics.requests_in_flight.inc()
        try:
            await self.app(scope, receive, send_with_id)
        except ClientDisconnect:
            pass
        except Exception as error:
            if status == 0:
                for message in error_message(_as_answer(error, request_id)):
                    await send_with_id(message)
        finally:
            self.metrics.requests_in_flight.dec()
            self._count(scope, status, time.perf_counter() - begin, request_id)

    def _count(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        route: Any = scope.get("route")
        path = getattr(route, "path", None) or "unknown"  # the pattern, never what was typed
        method = scope["method"] if scope["method"] in METHODS else "other"
        self.metrics.requests.labels(path, method, str(status or 499)).inc()
        self.metrics.request_seconds.labels(path).observe(seconds)
        logger.debug("%s %s %s %.0f ms %s", method, path, status, seconds * 1000, request_id)


class RequestLimit:
    """Bounds what runs at once, and with it all that a request takes: memory, tasks, connections."""

    def __init__(self, app: ASGIApp, max_requests: int) -> None:
        self.app, self.max_requests = app, max_requests
        self._running = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in UNCOUNTED:
            await self.app(scope, receive, send)
            return
        if self._running >= self.max_requests:
            raise Busy
        self._running += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._running -= 1


class BodyLimit:
    """Counts the bytes that arrive, whatever the headers promised: of this body, and of all whose requests still run."""

    def __init__(self, app: ASGIApp, max_bytes: int, max_held_bytes: int) -> None:
        self.app, self.max_bytes, self.max_held_bytes = app, max_bytes, max_held_bytes
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        promised = headers.get(b"content-length", b"")
        if promised.isdigit() and int(promised) > self.max_bytes:
            # A client that asks before it sends, or would send for long, is told at once.
            if b"expect" not in headers and int(promised) <= DRAIN_BYTES:
                await _drain(receive)
            raise self._too_large()
        received = 0

        async def counted() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                size = len(message.get("body", b""))
                received += size
                self._held += size
                if received > self.max_bytes:
                    await _drain(receive)
                    raise self._too_large()
                if self._held > self.max_held_bytes:
                    raise Busy
            return message

        try:
            await self.app(scope, counted, send)
        finally:
            self._held -= received

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The body is longer than the {self.max_bytes} bytes that are taken: send less, or split it.")


async def _drain(receive: Receive) -> None:
    """Reads the rest of a body that is refused, within limits."""
    drained = 0
    try:
        async with asyncio.timeout(DRAIN_S):
            while drained < DRAIN_BYTES:
                message = await receive()
                drained += len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
