"""Nobody gets at another's adapters, through any route; a foreign id looks exactly like an unknown one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from service.auth import hash_key
from tests.contract.conftest import Service, StartService

UNKNOWN = "ga-" + "0" * 32
OPEN_PATHS = {"/healthz", "/readyz", "/metrics", "/docs", "/openapi.json", "/redoc", "/docs/oauth2-redirect"}


@pytest.fixture(scope="module")
def shared(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Service:
    path: Path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = [{"name": name, "tenant": name, "sha256": hash_key(f"key-{name}")} for name in ("acme", "beta")]
    path.write_text(json.dumps({"keys": keys}))
    return start_service(api_keys_file=path)


def as_tenant(service: Service, name: str) -> httpx.Client:
    return httpx.Client(base_url=service.url, headers={"Authorization": f"Bearer key-{name}"}, timeout=30)


def uses_of(name: str) -> list[tuple[str, str, Any]]:
    """Every way to name an adapter."""
    return [
        ("GET", f"/adapters/{name}", None),
        ("GET", f"/adapters/{name}/peft", None),
        ("DELETE", f"/adapters/{name}", None),
        ("GET", f"/adapters?after={name}", None),
        ("POST", "/generate", {"adapter_id": name, "prompt": "hi"}),
        ("POST", "/generate", {"adapter_id": name, "prompt": "hi", "stream": True}),
        ("POST", "/v1/completions", {"model": name, "prompt": "hi"}),
        ("POST", "/v1/completions", {"model": name, "prompt": "hi", "stream": True}),
        ("POST", "/v1/chat/completions", {"model": name, "messages": [{"role": "user", "content": "hi"}]}),
    ]


def test_a_foreign_id_looks_like_an_unknown_one(shared: Service) -> None:
    with as_tenant(shared, "acme") as acme, as_tenant(shared, "beta") as beta:
        made = acme.post("/contextualize", json={"text": "what only acme knows"}).json()["id"]
        assert acme.post("/generate", json={"adapter_id": made, "prompt": "hi"}).status_code == 200
        for foreign, unknown in zip(uses_of(made), uses_of(UNKNOWN), strict=True):
            answers = [beta.request(method, path, json=body) for method, path, body in (foreign, unknown)]
            assert [answer.status_code for answer in answers] == [404, 404], foreign
            assert answers[0].content == answers[1].content, foreign
            kept = {"date", "x-request-id"}
            seen = [{name: value for name, value in answer.headers.items() if name not in kept} for answer in answers]
            assert seen[0] == seen[1]
        for path in ("/adapters", "/v1/models"):
            assert made in acme.get(path).text
            assert made not in beta.get(path).text
        assert acme.get(f"/adapters/{made}").status_code == 200, "nobody else deleted it"
        theirs = beta.post("/contextualize", json={"text": "what only acme knows"})
        assert theirs.status_code == 201
        assert theirs.json()["id"] != made


def test_every_route_needs_a_key(shared: Service) -> None:
    schema = shared.client.get("/openapi.json").json()
    checked = 0
    for path, operations in schema["paths"].items():
        for method in operations:
            answer = shared.client.request(method, path.replace("{adapter_id}", UNKNOWN))
            if path in OPEN_PATHS:
                assert answer.status_code in (200, 503)
                continue
            checked += 1
            assert answer.status_code == 401, (method, path)
            assert answer.json()["error"]["code"] == "invalid_api_key"
            assert answer.headers["www-authenticate"] == "Bearer"
    assert checked == 9
