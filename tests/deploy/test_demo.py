"""The demonstration's judgement: what it calls lost, and what it does not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tools.cluster.demo import Demo, Found
from tools.cluster.parts import Cluster

URLS = {"generate-0": "http://one", "generate-1": "http://two"}


def _completion(*logprobs: float) -> httpx.Response:
    tokens = [{"token": "x", "logprob": value} for value in logprobs]
    return httpx.Response(200, json={"choices": [{"text": "xx", "logprobs": {"content": tokens}}]})


def _judge(serve: Callable[[httpx.Request], httpx.Response]) -> dict[str, int]:
    async def ask() -> Found:
        found = Found()
        async with httpx.AsyncClient(transport=httpx.MockTransport(serve)) as client:
            demo = Demo(Cluster(start_s=1, log=Path(), urls=URLS), found, client)
            await demo.make("http://maker", 1)
            await demo.everyone_serves(list(demo.expected))
        return found

    return dict(asyncio.run(ask()).counts)


def _cluster(answer: Callable[[str, int], httpx.Response]) -> Callable[[httpx.Request], httpx.Response]:
    """`answer` gets the engine's name and how often it has been asked before."""
    asked = {"one": 0, "two": 0}

    def serve(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/contextualize":
            return httpx.Response(201, json={"id": "ga-1"})
        assert json.loads(request.content)["adapter_id"] == "ga-1"
        asked[request.url.host] += 1
        return answer(request.url.host, asked[request.url.host] - 1)

    return serve


def test_nothing_is_lost_when_both_engines_agree() -> None:
    assert _judge(_cluster(lambda engine, _: _completion(-1.0, -2.0 if engine == "one" else -2.01))) == {"requests": 3}


def test_a_refusal_that_is_served_later_is_no_loss() -> None:
    busy = httpx.Response(503, headers={"Retry-After": "0"})
    assert _judge(_cluster(lambda _, before: _completion(-1.0) if before else busy)) == {"requests": 5, "refused": 2}


@pytest.mark.parametrize(
    ("second", "kind"),
    [
        (_completion(-1.0, -9.0), "wrong_answers"),
        (_completion(-1.0), "wrong_answers"),
        (httpx.Response(404), "lost_adapters"),
        (httpx.Response(500), "lost_requests"),
    ],
)
def test_what_only_one_engine_serves_is_a_fault(second: httpx.Response, kind: str) -> None:
    assert _judge(_cluster(lambda engine, _: _completion(-1.0, -2.0) if engine == "one" else second))[kind] == 1
