"""The real thing, each part a process of its own on the loopback interface: store, engine, service; proxies in between.

load ─> service ─> proxy ─> engine
           └─────> proxy ─> store <─ proxy ─ engine
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

from generator.base_model import resolve_base_model
from service.auth import hash_key
from service.children import engine_child, free_port, store_child
from service.launcher import Child, Supervisor
from service.settings import Settings
from tests.chaos.proxy import Proxy
from tests.integration.support import BASE_MODEL, make_checkpoint

ENGINE_START_S = 300.0
SERVICE_START_S = 120.0
STOP_S = 90.0
DEADLINE_S = 60
POLL_S = 0.1
TENANTS = ("acme", "beta")
# float32, so that an adapter's numbers are the same alone and in a batch; fewer slots than adapters, so that they change.
ENGINE_ARGUMENTS = "--dtype float32"


class NotStarted(RuntimeError):
    pass


@dataclass
class Service:
    """`genadapter serve`, started again and again under one address."""

    folder: Path
    environment: Mapping[str, str]
    url: str
    process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        """Returns when it says that it is ready."""
        log = (self.folder / "service.log").open("ab")
        begin = log.tell()
        command = (sys.executable, "-m", "service.cli", "serve")
        self.process = await asyncio.create_subprocess_exec(
            *command, stdout=log, stderr=log, env=dict(self.environment), cwd=self.folder, start_new_session=True
        )
        log.close()
        deadline_s = time.monotonic() + SERVICE_START_S
        while b"ready on http" not in self.log()[begin:]:
            if self.process.returncode is not None or time.monotonic() > deadline_s:
                raise NotStarted(self.log()[begin:].decode(errors="replace")[-3000:])
            await asyncio.sleep(POLL_S)

    def log(self) -> bytes:
        return (self.folder / "service.log").read_bytes()

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(STOP_S):
            return await self.process.wait()


@dataclass
class Stack:
    folder: Path
    store: Child
    engine: Child
    store_proxy: Proxy
    engine_proxy: Proxy
    service: Service
    store_url: str
    keys: dict[str, str] = field(default_factory=dict)

    def client(self, tenant: str, timeout_s: float = DEADLINE_S + 30) -> httpx.AsyncClient:
        headers = {"Authorization": f"Bearer {self.keys[tenant]}"}
        return httpx.AsyncClient(base_url=self.service.url, headers=headers, timeout=timeout_s, trust_env=False)


@contextlib.asynccontextmanager
async def started(folder: Path, state_size: int = 512) -> AsyncIterator[Stack]:
    """Everything up and ready; all of it is gone afterwards. Logs lie in `folder`. `state_size`: as in `make_checkpoint`."""
    async with AsyncExitStack() as exits:
        log = exits.enter_context((folder / "children.log").open("a"))
        supervisor = await exits.enter_async_context(Supervisor(lambda line: print(line, file=log, flush=True)))
        spec, store_url = store_child(folder / "data")
        store = supervisor.start(spec)
        await store.wait_ready(30)
        address = store_url.removeprefix("unix://")
        store_proxy = await exits.enter_async_context(Proxy(lambda: asyncio.open_unix_connection(address)))
        redis_url = f"redis://127.0.0.1:{store_proxy.port}"
        base = await asyncio.to_thread(resolve_base_model, BASE_MODEL)
        checkpoint = await asyncio.to_thread(make_checkpoint, folder / "checkpoint", base, state_size)
        settings = Settings(
            _env_file=None,
            generator=checkpoint,
            engine_args=ENGINE_ARGUMENTS,
            max_model_len=1024,
            max_loras=3,
            max_cpu_loras=6,
        )
        port = free_port()
        spec, _ = await asyncio.to_thread(engine_child, settings, redis_url, port)
        cache = {"GENADAPTER_ADAPTER_CACHE": str(folder / "cache"), "GENADAPTER_SWEEP_SECONDS": "1"}
        engine = supervisor.start(replace(spec, environment={**spec.environment, **cache}))
        engine_proxy = await exits.enter_async_context(Proxy(lambda: asyncio.open_connection("127.0.0.1", port)))
        keys = _write_keys(folder / "keys.json")
        service = _service(folder, checkpoint, redis_url, f"http://127.0.0.1:{engine_proxy.port}")
        await engine.wait_ready(ENGINE_START_S, max_exits=1)
        await service.start()
        stack = Stack(folder, store, engine, store_proxy, engine_proxy, service, store_url, keys)
        try:
            yield stack
        finally:
            code = await service.end()
            if code:
                print(f"the service ended with code {code}", flush=True)


def _write_keys(path: Path) -> dict[str, str]:
    keys = {tenant: secrets.token_hex(16) for tenant in TENANTS}
    entries = [{"name": tenant, "tenant": tenant, "sha256": hash_key(key)} for tenant, key in keys.items()]
    path.write_text(json.dumps({"keys": entries}))
    return keys


def _service(folder: Path, checkpoint: Path, redis_url: str, engine_url: str) -> Service:
    port = free_port()
    settings = {
        "GENERATOR": str(checkpoint),
        "REDIS_URL": redis_url,
        "ENGINE_URL": engine_url,
        "PORT": str(port),
        "API_KEYS_FILE": str(folder / "keys.json"),
        "AUDIT_LOG": str(folder / "audit.log"),
        "CONTEXTUALIZE_DEADLINE": f"{DEADLINE_S}s",
        "GENERATE_DEADLINE": f"{DEADLINE_S}s",
        "SHUTDOWN_GRACE": "15s",
    }
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENADAPTER_")}
    environment |= {f"GENADAPTER_{name}": value for name, value in settings.items()}
    return Service(folder, environment, f"http://127.0.0.1:{port}")
