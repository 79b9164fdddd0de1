"""Every way to get it wrong, and the status and field that answer it."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest

from tests.contract.conftest import Service, StartService
from tests.contract.doubles import POISON
from tests.hostile.words import packed, whole
from tests.waiting import wait_for

UNKNOWN = "ga-" + "0" * 32
JSON = {"content-type": "application/json"}
BOUNDARY = {"content-type": "multipart/form-data; boundary=b"}
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'


def check(response: Any, status: int, param: str | None = None) -> dict[str, Any]:
    """The one shape of an error, with the status expected."""
    assert response.status_code == status, response.text
    error: dict[str, Any] = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert error["message"][0].isupper() or error["message"][0] in "'" or error["param"], error
    assert response.headers["x-request-id"]
    if status in (429, 503):
        assert int(response.headers["retry-after"]) >= 1
    if param is not None:
        assert error["param"] == param, error
    return error


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else []


IMAGE = {"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}


def turn(role: str, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ({"text": "a", "messages": [turn("user", "b")]}, 400, None),
        ({"text": "a", "documents": [{"text": "b"}]}, 400, None),
        ({"text": 5}, 400, "text"),
        ({"text": ["a"]}, 400, "text"),
        ({"text": ""}, 422, "text"),
        ({"text": " \n\t "}, 422, "text"),
        ({"text": "a", "colour": "blue"}, 400, "colour"),
        ({"messages": []}, 422, "messages"),
        ({"messages": [turn("wizard", "a")]}, 400, "messages.0.role"),
        ({"messages": [turn("user", None)]}, 400, "messages.0.content"),
        ({"messages": [turn("user", " ")]}, 422, "messages"),
        ({"messages": [{"role": "user"}]}, 400, "messages.0.content"),
        ({"documents": []}, 422, "documents"),
        ({"documents": [{"text": "a"}, {"text": ""}]}, 422, "documents.1.text"),
        ({"documents": [{"title": "a"}]}, 400, "documents.0.text"),
        ({"text": "a", "ttl_seconds": 0}, 422, "ttl_seconds"),
        ({"text": "a", "ttl_seconds": 10**12}, 422, "ttl_seconds"),
        ({"text": "a", "ttl_seconds": "60"}, 400, "ttl_seconds"),
        ({"text": "a", "ttl_seconds": True}, 400, "ttl_seconds"),
        ({"text": "a", "strategy": "magic"}, 400, "strategy"),
        ({"text": "a", "metadata": {"a": 1}}, 400, "metadata.a"),
        ({"text": "a", "metadata": {str(i): "x" for i in range(17)}}, 422, "metadata"),
        ({"text": "a", "keep_state": "yes"}, 400, "keep_state"),
        ([], 400, None),
        ("text", 400, None),
    ],
)
def test_contextualize_refuses(service: Service, body: Any, status: int, param: str | None) -> None:
    check(service.client.post("/contextualize", json=body), status, param)


@pytest.mark.parametrize(
    ("content", "headers", "status"),
    [
        (b"", JSON, 400),
        (b"{", JSON, 400),
        (b'{"text": "\xff"}', JSON, 400),
        (b'{"text": "\\ud800"}', JSON, 400),
        (b"[" * 100_000, JSON, 400),
        (b"text=a", {"content-type": "application/x-www-form-urlencoded"}, 415),
        (b"text", {"content-type": "text/plain"}, 415),
        (b'{"text": "a"}', {}, 415),
        (b"", {"content-type": "multipart/form-data"}, 400),
        (b"--b--\r\n", BOUNDARY, 400),
        (PART + b"cut off", BOUNDARY, 400),
    ],
)
def test_contextualize_refuses_bytes(service: Service, content: bytes, headers: dict[str, str], status: int) -> None:
    check(service.client.post("/contextualize", content=content, headers=headers), status)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({}, 400, None),
        ({"prompt": "a", "messages": [turn("user", "b")]}, 400, None),
        ({"prompt": ""}, 422, "prompt"),
        ({"prompt": ["a"]}, 400, "prompt"),
        ({"prompt": "a", "n": 0}, 422, "n"),
        ({"prompt": "a", "n": 17}, 422, "n"),
        ({"prompt": "a", "n": 1.5}, 400, "n"),
        ({"prompt": "a", "max_tokens": 0}, 422, "max_tokens"),
        ({"prompt": "a", "max_tokens": 10**9}, 422, "max_tokens"),
        ({"prompt": "a", "temperature": -0.1}, 422, "temperature"),
        ({"prompt": "a", "top_p": 0}, 422, "top_p"),
        ({"prompt": "a", "top_k": -2}, 422, "top_k"),
        ({"prompt": "a", "seed": 2**64}, 422, "seed"),
        ({"prompt": "a", "stop": ""}, 422, "stop"),
        ({"prompt": "a", "logprobs": 21}, 422, "logprobs"),
        ({"prompt": "a", "stream": "yes"}, 400, "stream"),
        ({"prompt": "a", "adapter_id": 7}, 400, "adapter_id"),
        ({"prompt": "a", "adapter_id": UNKNOWN}, 404, "adapter_id"),
        ({"prompt": "a", "adapter_id": "../../etc"}, 404, "adapter_id"),
        ({"prompt": "a", "adapter_id": "tiny-model"}, 404, "adapter_id"),
        ({"prompt": "a", "temprature": 1}, 400, "temprature"),
        ({"messages": [turn("wizard", "a")]}, 400, "messages.0.role"),
        ({"prompt": "toolong text"}, 400, None),
        ({"prompt": "explode now"}, 503, None),
        ({"prompt": "crowded engine"}, 429, None),
        ({"prompt": "midway there"}, 503, None),
        ({"prompt": "cutoff here"}, 503, None),
    ],
)
def test_generate_refuses(service: Service, body: Any, status: int, param: str | None) -> None:
    error = check(service.client.post("/generate", json=body), status, param)
    assert "secret" not in json.dumps(error)


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"prompt": "a"}, 400, "model"),
        ({"model": 3, "prompt": "a"}, 400, "model"),
        ({"model": "gpt-4", "prompt": "a"}, 404, "model"),
        ({"model": UNKNOWN, "prompt": "a"}, 404, "model"),
        ({"model": "tiny-model", "prompt": "a", "n": 17}, 422, "n"),
        ({"model": "tiny-model", "prompt": "a", "n": "2"}, 400, "n"),
        ({"model": "tiny-model", "prompt": "a", "max_tokens": 10**9}, 422, "max_tokens"),
        ({"model": "tiny-model", "prompt": ["a"] * 65}, 422, "prompt"),
        ({"model": "tiny-model", "messages": [turn("user", [IMAGE])]}, 400, "messages"),
        ({"model": "tiny-model", "messages": [turn("user", [{"image_url": "http://127.0.0.1/"}])]}, 400, "messages"),
        ({"model": "tiny-model", "prompt": "toolong text"}, 400, None),
        ({"model": "tiny-model", "prompt": "explode now"}, 503, None),
        ({"model": "tiny-model", "prompt": "crowded engine"}, 429, None),
        ({"model": "tiny-model", "prompt": "a", "top_k": 2**63}, 400, None),
        ({"model": "tiny-model", "prompt": "a", "tools": nested(99)}, 400, None),
        ({"model": "tiny-model", "prompt": "a", "tools": nested(600)}, 400, None),
        ({"model": "tiny-model", "prompt": "a", "response_format": {"enum": ["x" * 17_000]}}, 413, "response_format"),
        ({"model": "tiny-model", "prompt": "uncompilable", "response_format": {"$ref": "#"}}, 400, None),
        ({"model": "tiny-model", "prompt": "uncompilable"}, 503, None),
        ({"model": "tiny-model", "prompt": "explode now", "stream": True}, 503, None),
    ],
)
def test_v1_refuses(service: Service, body: Any, status: int, param: str | None) -> None:
    error = check(service.client.post("/v1/completions", json=body), status, param)
    assert "secret" not in json.dumps(error)


def test_an_adapter_that_the_engine_could_not_load_may_be_asked_again(service: Service) -> None:
    """vLLM blames the request (400); the adapter was deleted under it, or the store went away."""
    name = service.create("an adapter that does not load")["id"]
    check(service.client.post("/generate", json={"adapter_id": name, "prompt": "unloadable"}), 503)
    check(service.client.post("/v1/completions", json={"model": name, "prompt": "unloadable"}), 503)


@pytest.mark.parametrize(
    "content",
    [
        b'{"model": "tiny-model", "messages": [{"role": "user", "content": "\\ud83d"}]}',
        b'{"model": "tiny-model", "messages": [{"role": "user", "content": "\xed\xa0\xbd"}]}',
        '{"model": "tiny-model", "messages": [{"role": "user", "content": "a"}]}'.encode("utf-16"),
        b"{",
        b"[]",
        b'{"model": NaN}',
        b'{"model": ' + b"9" * 5000 + b"}",
        b"[" * 100_000,
    ],
)
def test_v1_refuses_bytes(service: Service, content: bytes) -> None:
    check(service.client.post("/v1/chat/completions", content=content, headers=JSON), 400)


def test_unknown_routes_methods_and_queries(service: Service) -> None:
    check(service.client.get("/nowhere"), 404)
    check(service.client.get("/v1/load_lora_adapter"), 404)
    check(service.client.post("/v1/load_lora_adapter", json={}), 404)
    check(service.client.get("/v1/models/tiny-model"), 404)
    assert "POST" in service.client.get("/contextualize").headers["allow"]
    check(service.client.get("/contextualize"), 405)
    check(service.client.get("/adapters", params={"limit": 0}), 422, "limit")
    check(service.client.get("/adapters", params={"limit": "many"}), 400, "limit")
    check(service.client.get("/adapters", params={"after": UNKNOWN}), 404, "after")
    for path in (f"/adapters/{UNKNOWN}", "/adapters/zzz", f"/adapters/{UNKNOWN}/peft"):
        check(service.client.get(path), 404)
    check(service.client.delete(f"/adapters/{UNKNOWN}"), 404)


def test_a_stream_that_breaks_ends_with_an_error_and_no_end_mark(service: Service) -> None:
    for prompt in ("midway there", "cutoff here"):
        with service.client.stream("POST", "/generate", json={"prompt": prompt, "stream": True}) as response:
            events = [line.removeprefix("data: ") for line in response.iter_lines() if line]
        assert json.loads(events[-1])["error"]["code"] == "engine_unavailable"
        assert "[DONE]" not in events


def test_request_ids(service: Service) -> None:
    assert service.client.get("/healthz", headers={"x-request-id": "abc-1.2_3"}).headers["x-request-id"] == "abc-1.2_3"
    for bad in ("a b", "x" * 200, "<script>"):
        assert service.client.get("/healthz", headers={"x-request-id": bad}).headers["x-request-id"] != bad


def test_a_generator_that_fails_harms_its_own_document_alone(service: Service) -> None:
    error = check(service.client.post("/contextualize", json={"text": f"some {POISON}"}), 500)
    assert error["code"] == "internal_error"
    assert "secret" not in error["message"]
    assert service.create("and the next one works")["reused"] is False


def test_limits_on_size(start_service: StartService) -> None:
    small = start_service(max_document_tokens=10, max_body_bytes=64 << 10, max_files=2, max_unpacked_bytes=1 << 20)
    error = check(small.client.post("/contextualize", json={"text": "w " * 11}), 413)
    assert "11 tokens" in error["message"]
    assert "10" in error["message"]
    assert "about" in check(small.client.post("/contextualize", json={"text": "w " * 200}), 413)["message"]
    check(small.client.post("/contextualize", json={"text": "x" * (65 << 10)}), 413)
    check(small.client.post("/generate", content=iter([b"x" * 30_000] * 3), headers=JSON), 413)
    bomb = {"file": ("a.docx", packed(whole() | {"word/media/image.png": bytes(2 << 20)}))}
    assert "1048576" in check(small.client.post("/contextualize", files=bomb), 422, "file")["message"]
    files = [("file", (f"{number}.txt", b"text")) for number in range(3)]
    check(small.client.post("/contextualize", files=files), 413, "file")
    assert small.client.post("/contextualize", files=files[:2]).status_code == 201


def post_raw(service: Service, path: str, fields: dict[str, Any]) -> socket.socket:
    """The connection of a request that nobody waits for."""
    connection = service.connect()
    body = json.dumps(fields).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def test_a_full_queue_answers_busy(start_service: StartService) -> None:
    service = start_service(max_queue=1)
    service.backend.open.clear()
    with post_raw(service, "/contextualize", {"text": "in the generator"}):
        wait_for(lambda: service.backend.begun == 1)
        with post_raw(service, "/contextualize", {"text": "waits"}):
            wait_for(lambda: "genadapter_queue_depth 1.0" in service.client.get("/metrics").text)
            check(service.client.post("/contextualize", json={"text": "one too many"}), 429)
        # Its place is free at once.
        wait_for(lambda: "genadapter_queue_depth 0.0" in service.client.get("/metrics").text)
        service.backend.open.set()
        assert service.create("all is well again")["reused"] is False
    assert service.backend.batches == [[3], [4]], "who left was not read"


def test_a_document_that_waits_is_told_at_its_deadline(start_service: StartService) -> None:
    service = start_service(contextualize_deadline="2s")
    service.backend.open.clear()
    with post_raw(service, "/contextualize", {"text": "holds the generator"}):
        wait_for(lambda: service.backend.begun == 1)
        check(service.client.post("/contextualize", json={"text": "waits for too long"}), 504)
        service.backend.open.set()
    assert service.create("and all is well again")["reused"] is False
    assert service.backend.batches == [[5]], "neither of those that were told is read on"


@pytest.mark.parametrize("path", ["/v1/completions", "/generate"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_is_let_go_upstream(service: Service, path: str, stream: bool) -> None:
    before = service.engine.cancelled
    fields = {"prompt": "slow answer", "stream": stream} | ({"model": "tiny-model"} if path != "/generate" else {})
    sent = len(service.engine.requests)
    with post_raw(service, path, fields):
        wait_for(lambda: len(service.engine.requests) > sent)
    wait_for(lambda: service.engine.cancelled > before)
