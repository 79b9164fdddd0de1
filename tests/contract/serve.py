"""The service with the doubles in a process of its own: `python -m tests.contract.serve STORE_URL AUDIT_LOG`.

Prints the service's address once it serves. For tests that look at the process: its memory, its descriptors, its end.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import uvicorn

from service.app import Loaders, create_app
from service.connections import bounded_protocol
from service.settings import Settings
from tests.contract.doubles import IDENTITY, MODEL, FakeBackend, FakeEngine

POLL_S = 0.01


async def serve(store_url: str, audit_log: Path) -> None:
    engine = uvicorn.Server(uvicorn.Config(FakeEngine().app, port=0, log_level="error"))
    engine_task = asyncio.create_task(engine.serve())
    settings = Settings(
        _env_file=None, base_model=MODEL, redis_url=store_url, engine_url=await address(engine), audit_log=audit_log
    )
    backend = FakeBackend()
    loaders = Loaders(backend=lambda _: backend, identity=lambda _: IDENTITY, expander=lambda _: None)
    config = uvicorn.Config(create_app(settings, loaders), port=0, log_level="error", http=bounded_protocol(64))
    service = uvicorn.Server(config)
    service_task = asyncio.create_task(service.serve())
    print(await address(service), flush=True)
    await asyncio.wait({engine_task, service_task}, return_when=asyncio.FIRST_COMPLETED)


async def address(server: uvicorn.Server) -> str:
    while not server.started:  # noqa: ASYNC110  # uvicorn sets a flag, no event
        await asyncio.sleep(POLL_S)
    return f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], Path(sys.argv[2])))
