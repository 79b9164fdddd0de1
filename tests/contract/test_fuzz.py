"""Whatever is sent, the answer is one of the contract's: never a 5xx, always the one error shape."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.contract.conftest import Service

words = st.text(max_size=20)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | words
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)
turns = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]) | words, "content": words | values}), max_size=3
)
NAMES = ["text", "documents", "ttl_seconds", "metadata", "strategy", "keep_state", "prompt", "adapter_id", "max_tokens"]
NAMES += ["temperature", "top_p", "top_k", "stop", "seed", "n", "logprobs", "stream", "model"]
bodies = st.dictionaries(st.sampled_from(NAMES), values, max_size=4) | st.fixed_dictionaries({"messages": turns})
sourced = st.tuples(
    st.sampled_from([{"text": "a b"}, {"prompt": "hi"}, {"model": "tiny-model", "prompt": "hi"}]), bodies
)
PATHS = ["/contextualize", "/generate", "/v1/completions", "/v1/chat/completions"]
# `make fuzz` sets it.
CASES = int(os.environ.get("FUZZ_CASES", "60"))
quickly = settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))


def judge(response: Any) -> None:
    assert response.status_code in (200, 201, 400, 404, 405, 413, 415, 422), response.text
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


@quickly
@given(path=st.sampled_from(PATHS), body=sourced.map(lambda pair: pair[0] | pair[1]) | bodies)
def test_json_of_all_kinds(service: Service, path: str, body: dict[str, Any]) -> None:
    if path.startswith("/v1"):
        body = {name: value for name, value in body.items() if name in ("model", "n", "max_tokens", "stream")} | {
            "prompt": "hi"
        }
    content = json.dumps(body).encode()
    judge(service.client.post(path, content=content, headers={"content-type": "application/json"}))


@quickly
@given(
    path=st.sampled_from(PATHS),
    content=st.binary(max_size=200),
    kind=st.sampled_from(["application/json", "multipart/form-data; boundary=b", "text/plain", ""]),
)
def test_bytes_of_all_kinds(service: Service, path: str, content: bytes, kind: str) -> None:
    judge(service.client.post(path, content=content, headers={"content-type": kind}))


@quickly
@given(
    name=st.text(max_size=30),
    data=st.binary(max_size=300),
    fields=st.dictionaries(st.sampled_from(NAMES), words, max_size=2),
)
def test_uploads_of_all_kinds(service: Service, name: str, data: bytes, fields: dict[str, str]) -> None:
    safe = "".join(char for char in name if char.isprintable() and char not in '"\\') + ".txt"
    judge(service.client.post("/contextualize", files={"file": (safe, data)}, data=fields))


@quickly
@given(adapter=st.text(max_size=40), method=st.sampled_from(["GET", "DELETE", "PUT", "HEAD", "OPTIONS"]), limit=words)
def test_paths_of_all_kinds(service: Service, adapter: str, method: str, limit: str) -> None:
    from urllib.parse import quote

    response = service.client.request(method, f"/adapters/{quote(adapter, safe='')}", params={"limit": limit})
    if method != "HEAD":
        judge(response)
