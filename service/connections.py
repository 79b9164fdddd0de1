"""Connections that send a request's head for ever, or nothing at all: bounded, before any of our code sees a request.

uvicorn bounds neither the bytes nor the time of a head, so that one client without a key could fill the memory with headers
and take every descriptor.
"""

from __future__ import annotations

import asyncio
import json
import resource
import secrets
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from service.errors import BadRequest, Busy, GenadapterError
from service.settings import Settings

# Of a request's line and headers. What comes in one read beyond it is still taken: 256 KiB at most.
MAX_HEAD_BYTES = 64 * 1024
HEAD_S = 20.0
# A connection that asks for nothing costs little, but a descriptor: so many for each request that may run.
CONNECTIONS_PER_REQUEST = 2
# An uploaded file that is longer lies on the disk (starlette's form parser).
SPOOLED_BYTES = 1 << 20
# Descriptors of the interpreter, its libraries, the event loop, logs, parsers' pipes.
SPARE_FILES = 128


class BoundedProtocol(HttpToolsProtocol):
    max_connections = 0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._in_head = False
        self._head_bytes = 0
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()
        if len(self.connections) > self.max_connections:
            self._refuse(Busy("Too many connections are open: try again shortly."))

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > MAX_HEAD_BYTES:
                self._refuse(BadRequest(f"The request's line and headers are longer than {MAX_HEAD_BYTES} bytes."))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()
        self._in_head, self._head_bytes = True, 0

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        self._refuse(BadRequest("This is no HTTP request that can be understood."))

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_S, self.transport.close)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _refuse(self, error: GenadapterError) -> None:
        """In the one shape of errors, and an end."""
        self._stop_timer()
        body = json.dumps(error.body()).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body)), "connection": "close"}
        headers |= {"x-request-id": secrets.token_hex(16), **error.headers()}
        lines = [f"HTTP/1.1 {error.status} {error.code}", *(f"{name}: {value}" for name, value in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()


def bounded_protocol(most: int) -> type[BoundedProtocol]:
    """For uvicorn's `http`, which takes a class; `most`: connections at once."""

    class Protocol(BoundedProtocol):
        max_connections = most

    return Protocol


def most_connections(settings: Settings) -> int:
    """Of clients, at once. Raises this process's limit of open files for them, as far as the system lets it; where that is
    not enough, fewer are taken, so that the store, the engine and the parsers can still be reached when all are open."""
    wanted = CONNECTIONS_PER_REQUEST * settings.max_requests
    own = (
        settings.redis_connections + settings.max_in_flight + settings.max_buffered_bytes // SPOOLED_BYTES + SPARE_FILES
    )
    limit, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < wanted + own:
        limit = wanted + own if hard == resource.RLIM_INFINITY else min(wanted + own, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    return wanted if limit == resource.RLIM_INFINITY else min(wanted, max(limit - own, limit // 4))
