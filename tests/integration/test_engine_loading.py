"""Adapters that are not in the engine's memory any more when a step wants them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from tests.integration.support import TENANT, Engine, LoopThread
from tests.waiting import wait_for

pytestmark = [pytest.mark.integration, pytest.mark.filterwarnings("default")]


class Request(threading.Thread):
    """A completion in a thread of its own; `response` when it has ended."""

    def __init__(self, engine: Engine, model: str, max_tokens: int) -> None:
        super().__init__(daemon=True)
        self._ask = lambda: engine.complete(model, "Once upon a time", max_tokens=max_tokens, ignore_eos=True)
        self._response: httpx.Response | None = None
        self.start()

    def run(self) -> None:
        self._response = self._ask()

    @property
    def response(self) -> httpx.Response:
        self.join()
        assert self._response is not None
        return self._response


def gauge(engine: Engine, name: str) -> float:
    lines = engine.client.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"vllm:{name}{{"))


def vanish(engine: Engine, name: str) -> None:
    for folder in engine.cache.glob(f"engine-*/{name}"):
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


@contextmanager
def generating(engine: Engine, model: str) -> Iterator[None]:
    """A request that has its first token when the block begins and goes on as long as the model's context allows."""
    body = {"model": model, "prompt": "Once upon a time", "max_tokens": 1000, "ignore_eos": True, "stream": True}
    with engine.client.stream("POST", "/v1/completions", json=body) as response:
        assert response.status_code == 200
        lines = response.iter_lines()  # let go, it would close the connection
        assert "text" in next(lines)
        yield


def load_inside_a_step(engine: Engine, name: str, first_seed: int, meanwhile: Callable[[], object]) -> httpx.Response:
    """The answer of a request whose adapter is pushed out of the engine's memory after the request was taken in.

    Four others hold the slots of a step while it waits, and six more go through the memory; then one of the four gives its
    slot up. All the others must succeed.
    """
    names = [engine.publish(seed) for seed in range(first_seed, first_seed + 10)]
    holders, last, others = names[:3], names[3], names[4:]
    with ExitStack() as slots:
        for holder in holders:
            slots.enter_context(generating(engine, holder))
        with generating(engine, last):
            request = Request(engine, name, 8)
            wait_for(lambda: gauge(engine, "num_requests_waiting") >= 1)
            meanwhile()
            more = [Request(engine, other, 2) for other in others]
            wait_for(lambda: engine.names() >= set(others))
            assert gauge(engine, "num_requests_waiting") >= 1, "the slots were given up too early for this test"
        assert [other.response.status_code for other in more] == [200] * 6
        response = request.response
        wait_for(lambda: gauge(engine, "num_requests_running") == 3)
    return response


def test_files_that_vanish_are_made_again_inside_a_step(engine: Engine):
    name = engine.publish(7)
    alone = Request(engine, name, 8).response.json()["choices"][0]["text"]
    response = load_inside_a_step(engine, name, 20, lambda: vanish(engine, name))
    assert response.status_code == 200
    assert response.json()["choices"][0]["text"] == alone
    assert name in engine.files()


def test_a_load_that_fails_inside_a_step_fails_its_requests_and_nothing_else(
    engine: Engine, store, loop_thread: LoopThread
):
    name = engine.publish(8)
    alone = Request(engine, name, 8).response.json()["choices"][0]["text"]
    exits = engine.child.restarts

    def lose() -> None:
        loop_thread.run(store.delete(name, TENANT))
        vanish(engine, name)

    response = load_inside_a_step(engine, name, 40, lose)
    assert response.status_code == 500
    assert "/" not in response.json()["error"]["message"], "an internal message"
    assert engine.child.restarts == exits
    # Made anew under its id it answers as before: nothing computed without it is left in the prefix cache.
    wait_for(lambda: name not in engine.names())
    engine.publish(8)
    assert Request(engine, name, 8).response.json()["choices"][0]["text"] == alone
