"""What a benchmark drives: a service, its engine and its store, all started for it, or those that run already."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx

from service.children import engine_child, free_port, store_child
from service.launcher import Supervisor
from service.settings import Settings

START_TIMEOUT_S = 300.0
STOP_TIMEOUT_S = 60.0
REQUEST_TIMEOUT_S = 900.0
# The servers drop idle connections after 5 s: dropped before, so that no request goes out on one that is just closed.
_LIMITS = httpx.Limits(max_connections=256, keepalive_expiry=2.0)


@dataclass
class Stack:
    """`engine` and `redis_url` are None for a service whose parts are not known."""

    client: httpx.AsyncClient
    model: str
    engine: httpx.AsyncClient | None = None
    redis_url: str | None = None
    processes: dict[str, int] = field(default_factory=dict)  # name: process id


@contextlib.asynccontextmanager
async def running(url: str, engine_url: str | None = None, service_pid: int | None = None) -> AsyncIterator[Stack]:
    """A service that was started by somebody else."""
    async with contextlib.AsyncExitStack() as stack:
        client = await stack.enter_async_context(_client(url))
        engine = await stack.enter_async_context(_client(engine_url)) if engine_url else None
        processes = {} if service_pid is None else {"service": service_pid}
        yield Stack(client, await _model(client), engine, processes=processes)


@contextlib.asynccontextmanager
async def started(engine_arguments: str = "", **settings: str) -> AsyncIterator[Stack]:
    """A store, an engine and a service with `settings` (names without their prefix), stopped afterwards."""
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genadapter-bench-")))
        values: dict[str, Any] = {name.lower(): value for name, value in settings.items()}
        configured = Settings(_env_file=None, engine_args=engine_arguments, **values)
        log = stack.enter_context((folder / "children.log").open("a"))
        supervisor = await stack.enter_async_context(Supervisor(lambda line: print(line, file=log, flush=True)))
        store, redis_url = store_child(folder)
        store_process = supervisor.start(store)
        await store_process.wait_ready(START_TIMEOUT_S)
        spec, engine_url = engine_child(configured, redis_url)
        engine_process = supervisor.start(spec)
        environment = {f"GENADAPTER_{name}": value for name, value in settings.items()}
        environment |= {"GENADAPTER_REDIS_URL": redis_url, "GENADAPTER_ENGINE_URL": engine_url}
        url, service = stack.enter_context(_serving(environment))
        client = await stack.enter_async_context(_client(url))
        engine = await stack.enter_async_context(_client(engine_url))
        await _until_ready(client, service)
        processes = {"service": service.pid, "engine": _pid(engine_process), "store": _pid(store_process)}
        yield Stack(client, await _model(client), engine, redis_url, processes)


@contextlib.asynccontextmanager
async def stock_engine(adapters: Mapping[str, Path]) -> AsyncIterator[httpx.AsyncClient]:
    """vLLM as it comes, without our plugin, serving PEFT LoRAs (name: folder) that it has loaded itself."""
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(asyncio.sleep, 0.5)  # asyncio closes the ended child's pipe after the child
        supervisor = await stack.enter_async_context(Supervisor(lambda _line: None))
        spec, url = engine_child(Settings(_env_file=None), redis_url="")
        environment = {**spec.environment, "VLLM_PLUGINS": "none"}  # an allow-list; no plugin has this name
        child = supervisor.start(replace(spec, name="stock engine", environment=environment))
        await child.wait_ready(START_TIMEOUT_S)
        client = await stack.enter_async_context(_client(url))
        for name, folder in adapters.items():
            answer = await client.post("/v1/load_lora_adapter", json={"lora_name": name, "lora_path": str(folder)})
            answer.raise_for_status()
        yield client


def _pid(child: Any) -> int:
    return int(child.pid or 0)


@contextlib.contextmanager
def _serving(environment: dict[str, str]) -> Any:
    port = free_port()
    command = [sys.executable, "-m", "service.cli", "serve", "--port", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**os.environ, **environment}, stdout=quiet, stderr=quiet)
    try:
        yield f"http://127.0.0.1:{port}", process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_TIMEOUT_S)


def _client(url: str) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=url, timeout=REQUEST_TIMEOUT_S, limits=_LIMITS, trust_env=False)


async def _model(client: httpx.AsyncClient) -> str:
    name: str = (await client.get("/v1/models")).json()["data"][0]["id"]
    return name


async def _until_ready(client: httpx.AsyncClient, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with code {process.returncode} while it started")
        with contextlib.suppress(httpx.TransportError):
            if (await client.get("/readyz")).status_code == 200:
                return
        await asyncio.sleep(0.25)
    raise RuntimeError(f"the service was not ready within {START_TIMEOUT_S:.0f} s")
