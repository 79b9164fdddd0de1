"""The chaos run must be able to fail: a service that does wrong in one of these ways is found out."""

from __future__ import annotations

import asyncio
import io
import json
import random
import time
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import httpx
import numpy
import pytest
from safetensors.numpy import save

from tests.chaos.documents import TooMuchAlike, all_documents, record
from tests.chaos.judge import LORA_A, LORA_B, Tally, is_same
from tests.chaos.load import Load
from tests.chaos.report import verify

REQUEST_ID = {"x-request-id": "r"}
Fault = Callable[["Pretender", httpx.Request, httpx.Response], httpx.Response]


class Pretender:
    """A service in some lines, for two tenants; `fault` spoils its answers once it is set."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[str, float]] = {}
        self.fault: Fault = lambda _, request, response: response

    def client(self, tenant: str) -> httpx.AsyncClient:
        def handle(request: httpx.Request) -> httpx.Response:
            return self.fault(self, request, self.answer(tenant, request))

        return httpx.AsyncClient(transport=httpx.MockTransport(handle), base_url="http://pretender")

    def answer(self, tenant: str, request: httpx.Request) -> httpx.Response:
        path, body = request.url.path, request.content
        if path == "/contextualize":
            return self.make(tenant, json.loads(body)["text"] if body.startswith(b"{") else body.decode()[-400:])
        if path == "/adapters":
            mine = [{"id": name} for name, (owner, _) in self.made.items() if owner == tenant]
            return httpx.Response(200, json={"data": mine}, headers=REQUEST_ID)
        fields = json.loads(body or b"{}")
        name = fields.get("adapter_id", fields.get("model", path.split("/")[-1 if path.count("/") < 3 else 2]))
        if name is not None and self.made.get(name, ("",))[0] != tenant:
            error = {"message": "No.", "type": "t", "param": None, "code": "c"}
            return httpx.Response(404, json={"error": error}, headers=REQUEST_ID)
        if request.method == "DELETE":
            del self.made[name]
            return httpx.Response(204, headers=REQUEST_ID)
        if path.endswith("/append"):
            return self.make(tenant, f"{name} {fields['text']}")
        mark = 0.0 if name is None else self.made[name][1] + 1
        return peft(mark) if path.endswith("/peft") else generated(fields, mark)

    def make(self, tenant: str, text: str) -> httpx.Response:
        number = zlib.crc32(text.encode())  # the same in every run
        name = f"ga-{tenant}-{number}"
        reused = name in self.made
        self.made.setdefault(name, (tenant, number % 10_000 / 10))
        return httpx.Response(200 if reused else 201, json={"id": name}, headers=REQUEST_ID)


def peft(mark: float) -> httpx.Response:
    buffer = io.BytesIO()
    row = numpy.random.default_rng(int(10 * mark)).normal(size=(1, 64)).astype("float32")
    tensors = {f"m{LORA_A}": row, f"m{LORA_B}": numpy.ones((2, 1), "float32")}
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("adapter_model.safetensors", save(tensors))
    return httpx.Response(200, content=buffer.getvalue(), headers=REQUEST_ID)


def generated(fields: dict[str, Any], mark: float) -> httpx.Response:
    tops = {word: -mark - place for place, word in enumerate("abc")}
    if "model" in fields:
        return httpx.Response(200, json={"choices": [{"logprobs": {"top_logprobs": [tops]}}]}, headers=REQUEST_ID)
    content = [{"top_logprobs": [{"token": word, "logprob": value} for word, value in tops.items()]}]
    body = {"choices": [{"logprobs": {"content": content}}]}
    if fields.get("stream"):
        return httpx.Response(200, text=f"data: {json.dumps(body)}\n\ndata: [DONE]\n\n", headers=REQUEST_ID)
    return httpx.Response(200, json=body, headers=REQUEST_ID)


def run(fault: Fault | None, monkeypatch: pytest.MonkeyPatch) -> Tally:
    monkeypatch.setattr("tests.chaos.load.PAUSE_S", (0.0, 0.0))
    monkeypatch.setattr("tests.chaos.report.PAUSE_S", 0.0)

    async def use() -> Tally:
        pretender = Pretender()
        clients = {tenant: pretender.client(tenant) for tenant in ("acme", "beta")}
        documents = all_documents()
        load = Load(clients, documents, await record(clients, documents))
        pretender.fault = fault or pretender.fault
        await load.run(time.monotonic() + 1.0, 1)
        await verify(load)
        for client in clients.values():
            await client.aclose()
        return load.tally

    return asyncio.run(use())


def spoiled(kind: str) -> Fault:
    def error(status: int, **headers: str) -> httpx.Response:
        fields = {"message": "No.", "type": "t", "param": None, "code": "c"}
        return httpx.Response(status, json={"error": fields}, headers=REQUEST_ID | headers)

    def fault(pretender: Pretender, request: httpx.Request, response: httpx.Response) -> httpx.Response:
        if kind == "mixes adapters up" and request.url.path == "/generate" and response.status_code == 200:
            return generated(json.loads(request.content), 7.77)
        if kind == "mixes weights up" and request.url.path.endswith("/peft") and response.status_code == 200:
            return peft(0.0)
        if kind == "gives half a zip" and request.url.path.endswith("/peft") and response.status_code == 200:
            return httpx.Response(200, content=response.content[:99], headers=REQUEST_ID)
        if kind == "loses states" and request.url.path.endswith("/append"):
            return error(409)
        if kind == "loses adapters" and request.method == "GET":
            pretender.made.pop(next(iter(pretender.made), ""), None)
        if kind == "fails inside" and request.method == "GET":
            return error(500)
        if kind == "does not say when" and request.method == "GET":
            return error(503)
        if kind == "serves strangers" and response.status_code == 404:
            return generated(json.loads(request.content or b"{}"), 1.0)
        if kind == "has no ids":
            del response.headers["x-request-id"]
        if kind == "breaks connections" and request.method == "DELETE":
            raise httpx.RemoteProtocolError("gone")
        return response

    return fault


def test_a_good_service_is_clean(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = run(None, monkeypatch)
    assert tally.is_clean, tally.examples
    assert tally.requests > 50
    assert tally.compared > 10


def test_what_a_soak_compares_is_whole_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.chaos.load.PAUSE_S", (0.0, 0.0))

    async def use() -> None:
        pretender = Pretender()
        clients = {tenant: pretender.client(tenant) for tenant in ("acme", "beta")}
        documents = all_documents()
        load = Load(clients, documents, await record(clients, documents))
        for document in documents[::2]:  # parents and children among them
            await load.delete(document, random.Random(0))
        await load.complete()
        assert {document.id for document in documents} <= pretender.made.keys()
        assert {document.state for document in documents} == {"there"}
        assert load.tally.is_clean, load.tally.examples

    asyncio.run(use())


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("mixes adapters up", "wrong_answers"),
        ("mixes weights up", "wrong_answers"),
        ("gives half a zip", "wrong_answers"),
        ("loses states", "lost_adapters"),
        ("loses adapters", "lost_adapters"),
        ("fails inside", "contract_violations"),
        ("does not say when", "contract_violations"),
        ("serves strangers", "contract_violations"),
        ("has no ids", "contract_violations"),
        ("breaks connections", "contract_violations"),
    ],
)
def test_a_bad_one_is_found_out(monkeypatch: pytest.MonkeyPatch, kind: str, count: str) -> None:
    assert getattr(run(spoiled(kind), monkeypatch), count) > 0


def test_markers_tell_adapters_apart() -> None:
    one = ({"a": -0.1, "b": -2.0, "c": -3.0}, {"x": -0.50, "y": -0.52, "z": -4.0}, {"p": -0.1, "q": -3.0, "r": -4.0})
    near = ({"a": -0.11, "b": -2.01, "d": -3.0, "c": -3.02}, *one[1:])
    assert is_same(near, one)
    assert is_same(one[:1], one), "an answer that ended early"
    assert is_same((*one[:2], {"other": -1.0, "text": -2.0}), one), "what follows a tie is not compared"
    assert not is_same(({"a": -0.3, "b": -2.0, "c": -3.0}, *one[1:]), one)
    assert not is_same(({"k": -0.1, "l": -2.0, "m": -3.0}, *one[1:]), one)
    assert not is_same((), one)


def test_adapters_that_are_all_the_same_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pretender, "answer", lambda self, tenant, request: _same(request))
    with pytest.raises(TooMuchAlike):
        run(None, monkeypatch)


def _same(request: httpx.Request) -> httpx.Response:
    if request.url.path == "/contextualize" or request.url.path.endswith("/append"):
        return httpx.Response(201, json={"id": "ga-x"}, headers=REQUEST_ID)
    if request.url.path.endswith("/peft"):
        return peft(1.0)
    return generated({}, 1.0)
