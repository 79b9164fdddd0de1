"""One embedded store and one engine for the whole session: starting an engine takes half a minute."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from generator.base_model import resolve_base_model
from generator.checkpoint import Expander, load_expander
from service.children import store_child
from service.launcher import Supervisor
from service.store import Store
from tests.integration.support import BASE_MODEL, Engine, LoopThread, make_checkpoint, start_engine

REQUEST_TIMEOUT_S = 120.0


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    thread = LoopThread()
    yield thread
    thread.close()


@pytest.fixture(scope="session")
def supervisor(loop_thread: LoopThread) -> Iterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    loop_thread.run(supervisor.stop())


@pytest.fixture(scope="session")
def valkey_url(loop_thread: LoopThread, supervisor: Supervisor, tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of an embedded store, started as the service starts it."""

    async def start() -> str:
        spec, url = store_child(tmp_path_factory.mktemp("data"))
        await supervisor.start(spec).wait_ready(30)
        return url

    url: str = loop_thread.run(start())
    return url


@pytest.fixture(scope="session")
def base_folder() -> Path:
    return resolve_base_model(BASE_MODEL)


@pytest.fixture(scope="session")
def checkpoint(base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A generator with random weights."""
    return make_checkpoint(tmp_path_factory.mktemp("generator"), base_folder)


@pytest.fixture(scope="session")
def expander(checkpoint: Path) -> Expander:
    return load_expander(checkpoint)


@pytest.fixture(scope="session")
def store(loop_thread: LoopThread, valkey_url: str) -> Iterator[Store]:
    store: Store = loop_thread.run(Store.open(valkey_url))
    yield store
    loop_thread.run(store.close())


@pytest.fixture(scope="session")
def engine(
    loop_thread: LoopThread,
    supervisor: Supervisor,
    valkey_url: str,
    store: Store,
    checkpoint: Path,
    expander: Expander,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Engine]:
    """float32, so that numbers can be compared; room for 4 adapters in a step and 8 in memory."""
    cache = tmp_path_factory.mktemp("cache")
    arguments = "--dtype float32 --max-logprobs 1000"
    child, url = start_engine(loop_thread, supervisor, valkey_url, checkpoint, cache, arguments)
    with httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S) as client:
        yield Engine(client, url, child, loop_thread, store, expander, cache)
    loop_thread.run(supervisor.children.pop("engine").stop())
