"""What arrives before there is a request: heads without end, connections without words, too many of them, noise."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable

import httpx
import pytest

from service import connections
from tests.contract.conftest import MAX_REQUESTS, Service
from tests.waiting import PATIENCE_S


def answer(connection: socket.socket) -> bytes:
    """All that comes until the service closes."""
    said = b""
    try:
        while data := connection.recv(1 << 16):
            said += data
    except ConnectionResetError:
        pass
    return said


def refused(said: bytes, status: int) -> None:
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"x-request-id: " in head
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def many_headers(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\n")
    for number in range(10_000):
        connection.sendall(b"x-%d: " % number + b"y" * 60_000 + b"\r\n")


def one_long_line(connection: socket.socket) -> None:
    connection.sendall(b"GET /")
    for _ in range(10_000):
        connection.sendall(b"a" * 60_000)


@pytest.mark.parametrize("send", [many_headers, one_long_line])
def test_a_head_without_end_is_cut(service: Service, send: Callable[[socket.socket], None]) -> None:
    with service.connect() as connection, pytest.raises(OSError, match=r"reset|Broken"):
        send(connection)
    assert service.client.get("/healthz").status_code == 200


def test_a_long_head_and_noise_are_told(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nx: " + b"y" * (connections.MAX_HEAD_BYTES + 10))
        refused(answer(connection), 400)
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00", b"GET\r\n\r\n", b"\x00" * 100, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
        with service.connect() as connection:
            connection.sendall(noise)
            refused(answer(connection), 400)


@pytest.mark.parametrize("words", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n"])
def test_a_connection_that_does_not_ask_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch, words: bytes
) -> None:
    monkeypatch.setattr(connections, "HEAD_S", 0.3)
    with service.connect() as connection:
        connection.sendall(words)
        assert answer(connection) == b""


def test_too_many_connections_are_refused(service: Service) -> None:
    held = [service.connect() for _ in range(connections.CONNECTIONS_PER_REQUEST * MAX_REQUESTS)]
    try:
        with service.connect() as one_more:
            refused(answer(one_more), 429)
    finally:
        for connection in held:
            connection.close()
    with httpx.Client(base_url=service.url, timeout=PATIENCE_S) as client:
        assert client.get("/healthz").status_code == 200


FITTED = """
import resource, sys
from service.connections import most_connections
from service.settings import Settings

resource.setrlimit(resource.RLIMIT_NOFILE, (256, int(sys.argv[1])))
print(most_connections(Settings(_env_file=None)), resource.getrlimit(resource.RLIMIT_NOFILE)[0])
"""


@pytest.mark.parametrize(("files", "most"), [(20_000, 4096), (4096, 2368), (512, 128)])
def test_connections_leave_descriptors_for_the_rest(files: int, most: int) -> None:
    """The usual limit of 1,024 open files is raised for them as far as it goes; beyond that they are fewer."""
    done = subprocess.run([sys.executable, "-c", FITTED, str(files)], capture_output=True, text=True, check=True)
    told, limit = map(int, done.stdout.split())
    assert (told, limit) == (most, min(files, 5824))


def test_requests_one_after_the_other_and_refused_bodies_pass(service: Service) -> None:
    with service.connect() as connection:
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n" * 30)
        connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer(connection).count(b"HTTP/1.1 200") == 31
    body = b"x" * (8 * connections.MAX_HEAD_BYTES)
    for _ in range(3):
        assert service.client.post("/nowhere", content=body).status_code == 404, "answered before the body was read"
