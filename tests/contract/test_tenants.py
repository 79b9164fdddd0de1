"""Nobody gets at another's adapters, through any route and method that the OpenAPI names; what vLLM has beyond them is out of
reach."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from service import auth
from service.app import create_app
from service.cli import app as command_line
from service.settings import Settings
from tests.contract.conftest import Service, StartService
from tests.contract.test_errors import check

UNKNOWN = "ga-" + "0" * 32
OPEN_PATHS = {"/healthz", "/readyz", "/metrics"}
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
SECRET = "what only acme knows"
OF_ONE_ANSWER = {"date", "x-request-id"}
Operation = tuple[str, str]


def description() -> dict[str, Any]:
    found: dict[str, Any] = create_app(Settings(_env_file=None)).openapi()
    return found


def operations() -> list[Operation]:
    """Of the whole OpenAPI: a new route is tested from its first day."""
    paths = description()["paths"]
    return [(method, path) for path, item in paths.items() for method in METHODS if method in item]


KEYED = [operation for operation in operations() if operation[1] not in OPEN_PATHS]


def body_of(operation: Operation, adapter: str) -> tuple[Any, bool]:
    """A good body for an operation, and whether it names the adapter. Fails for a kind of body that is not known here."""
    method, path = operation
    schema = description()
    content = schema["paths"][path][method].get("requestBody")
    if content is None:
        return None, False
    media = content["content"]["application/json"]
    body = media["schema"]
    if "$ref" in body:
        body = schema["components"]["schemas"][body["$ref"].rsplit("/", 1)[1]]
    if "model" in body.get("required", ()):
        return media["example"] | {"model": adapter}, True
    if "adapter_id" in body["properties"]:
        return {"adapter_id": adapter, "prompt": "hi"}, True
    return {"text": SECRET}, False


@dataclass
class Shared:
    """A service with two tenants, a key that was revoked, and an adapter of the first tenant."""

    service: Service
    keys: dict[str, str]
    keys_file: Path
    adapter: str

    def ask(self, operation: Operation, who: str, adapter: str) -> httpx.Response:
        method, path = operation
        headers = {"Authorization": f"Bearer {self.keys[who]}"} if who in self.keys else {}
        body, _ = body_of(operation, adapter)
        url = path.replace("{adapter_id}", adapter)
        return self.service.client.request(method.upper(), url, json=body, headers=headers)


@pytest.fixture(scope="module")
def shared(start_service: StartService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    path: Path = tmp_path_factory.mktemp("keys") / "keys.json"
    keys: dict[str, str] = {}
    for name, tenant in (("owner", "acme"), ("colleague", "acme"), ("other", "beta"), ("revoked", "acme")):
        made = CliRunner().invoke(
            command_line, ["keys", "add", name, "--tenant", tenant, "--file", str(path), "--json"]
        )
        keys[name] = json.loads(made.stdout)["key"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auth, "RECHECK_S", 0)
        service = start_service(api_keys_file=path)
        found = Shared(service, keys, path, "")
        for who in keys:
            assert found.ask(("post", "/contextualize"), who, "").status_code in (200, 201)
        found.adapter = found.ask(("post", "/contextualize"), "owner", "").json()["id"]
        revoked = CliRunner().invoke(command_line, ["keys", "revoke", "revoked", "--file", str(path)])
        assert revoked.exit_code == 0
        yield found


def facts(answer: httpx.Response) -> Any:
    """All that a caller can see of an answer but the time and the request's own id."""
    headers = {name: value for name, value in answer.headers.items() if name not in OF_ONE_ANSWER}
    return answer.status_code, answer.content, headers


def names_adapter(operation: Operation) -> bool:
    return "{adapter_id}" in operation[1] or body_of(operation, UNKNOWN)[1]


@pytest.mark.parametrize("who", ["revoked", "nobody"])
@pytest.mark.parametrize("operation", KEYED, ids=" ".join)
def test_without_a_good_key_nothing_is_told(shared: Shared, operation: Operation, who: str) -> None:
    answer = shared.ask(operation, who, shared.adapter)
    assert check(answer, 401)["code"] == "invalid_api_key"
    assert answer.headers["www-authenticate"] == "Bearer"
    assert facts(answer) == facts(shared.ask(operation, who, UNKNOWN))


@pytest.mark.parametrize("operation", KEYED, ids=" ".join)
def test_another_tenant_sees_nothing(shared: Shared, operation: Operation) -> None:
    foreign = shared.ask(operation, "other", shared.adapter)
    assert shared.adapter not in foreign.text
    if names_adapter(operation):
        assert foreign.status_code == 404
        assert facts(foreign) == facts(shared.ask(operation, "other", UNKNOWN)), "it looks like an unknown one"
    else:
        assert foreign.status_code in (200, 201)
    assert shared.ask(("get", "/adapters/{adapter_id}"), "owner", shared.adapter).status_code == 200


# What the OpenAPI does not name: every other method of every address.
UNNAMED = sorted({(method, path) for _, path in operations() for method in METHODS} - set(operations()))


@pytest.mark.parametrize("who", ["owner", "colleague", "other", "revoked", "nobody"])
@pytest.mark.parametrize("operation", UNNAMED, ids=" ".join)
def test_no_other_method_tells_anything(shared: Shared, operation: Operation, who: str) -> None:
    method, path = operation
    headers = {"Authorization": f"Bearer {shared.keys[who]}"} if who in shared.keys else {}
    answers = [
        shared.service.client.request(method.upper(), path.replace("{adapter_id}", name), headers=headers)
        for name in (shared.adapter, UNKNOWN)
    ]
    assert answers[0].status_code == 405
    assert facts(answers[0]) == facts(answers[1])


def store_operations(service: Service) -> dict[str, float]:
    lines = service.client.get("/metrics").text.splitlines()
    counts = [line for line in lines if line.startswith("genadapter_store_operation_seconds_count")]
    return {name: float(count) for name, count in (line.rsplit(" ", 1) for line in counts)}


@pytest.mark.parametrize("operation", [item for item in KEYED if names_adapter(item)], ids=" ".join)
def test_a_foreign_id_takes_the_way_of_an_unknown_one(shared: Shared, operation: Operation) -> None:
    """The same questions to the store, and so the same time."""
    asked = []
    for name in (shared.adapter, UNKNOWN):
        before = store_operations(shared.service)
        assert shared.ask(operation, "other", name).status_code == 404
        after = store_operations(shared.service)
        asked.append({key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)})
    assert asked[0] == asked[1]
    assert asked[0], "the store was asked"


@pytest.mark.parametrize("who", ["owner", "colleague"])
@pytest.mark.parametrize("operation", [item for item in KEYED if item[0] != "delete"], ids=" ".join)
def test_the_tenant_itself_is_served(shared: Shared, operation: Operation, who: str) -> None:
    if operation[1].endswith("/peft"):
        return  # needs a generator; tests/e2e has one
    answer = shared.ask(operation, who, shared.adapter)
    assert answer.status_code not in (401, 403, 404, 405)
    assert answer.status_code < 500, answer.text


def test_one_may_delete_what_is_ones_own(shared: Shared) -> None:
    assert shared.ask(("delete", "/adapters/{adapter_id}"), "colleague", shared.adapter).status_code == 204
    made = shared.ask(("post", "/contextualize"), "owner", "")
    assert (made.status_code, made.json()["id"]) == (201, shared.adapter)


def test_the_same_text_of_two_tenants_is_two_adapters(shared: Shared) -> None:
    made = shared.ask(("post", "/contextualize"), "other", "").json()
    assert made["id"] != shared.adapter
    for path in ("/adapters", "/v1/models"):
        assert shared.adapter in shared.ask(("get", path), "owner", "").text
        assert made["id"] not in shared.ask(("get", path), "owner", "").text


def test_a_page_does_not_begin_after_anothers_adapter(shared: Shared) -> None:
    headers = {"Authorization": f"Bearer {shared.keys['other']}"}
    answers = [
        shared.service.client.get("/adapters", params={"after": name}, headers=headers)
        for name in (shared.adapter, UNKNOWN)
    ]
    assert facts(answers[0]) == facts(answers[1])
    check(answers[0], 404, "after")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("path", ["/generate", "/v1/completions", "/v1/chat/completions"])
def test_streams_are_no_way_in(shared: Shared, path: str, stream: bool) -> None:
    answers = []
    for name in (shared.adapter, UNKNOWN):
        body = body_of(("post", path), name)[0] | {"stream": stream}
        headers = {"Authorization": f"Bearer {shared.keys['other']}"}
        answers.append(shared.service.client.post(path, json=body, headers=headers))
    assert facts(answers[0]) == facts(answers[1])
    check(answers[0], 404)


def test_tenants_share_no_prefixes(shared: Shared) -> None:
    """A prompt that somebody else has sent must not be answered faster."""
    salts: dict[str, set[str]] = {"owner": set(), "colleague": set(), "other": set()}
    for who, found in salts.items():
        headers = {"Authorization": f"Bearer {shared.keys[who]}"}
        for path, body in (
            ("/generate", {"prompt": "hi"}),
            ("/v1/completions", {"model": "tiny-model", "prompt": "hi"}),
        ):
            shared.service.client.post(path, json=body, headers=headers)
            found.add(shared.service.engine.requests[-1]["cache_salt"])
    assert len(salts["owner"]) == 1
    assert salts["owner"] == salts["colleague"]
    assert not salts["owner"] & salts["other"]


ADMINISTRATION = [
    "load_lora_adapter",
    "v1/load_lora_adapter",
    "v1/unload_lora_adapter",
    "pause",
    "resume",
    "is_paused",
    "sleep",
    "wake_up",
    "is_sleeping",
    "collective_rpc",
    "reset_prefix_cache",
    "reset_mm_cache",
    "server_info",
    "update_weights",
    "init_weight_transfer_engine",
    "start_profile",
    "stop_profile",
    "tokenize",
    "detokenize",
    "tokenizer_info",
    "v1/embeddings",
    "v1/responses",
    "v1/messages",
    "v1/audio/transcriptions",
    "pooling",
    "classify",
    "score",
    "v1/score",
    "rerank",
    "v1/rerank",
    "v2/rerank",
    "invocations",
    "ping",
    "version",
    "load",
    "scale_elastic_ep",
    "inference/v1/generate",
    "abort_requests",
    "v1/models/tiny-model",
    "v1/completions/render",
    "v1/chat/completions/render",
]
DETOURS = [
    "/v1/completions/../load_lora_adapter",
    "/v1/%2e%2e/pause",
    "//pause",
    "/v1//load_lora_adapter",
    "/v1/completions/",
]


@pytest.mark.parametrize("path", [f"/{name}" for name in ADMINISTRATION] + DETOURS)
def test_the_engines_own_routes_are_out_of_reach(shared: Shared, path: str) -> None:
    headers = {"Authorization": f"Bearer {shared.keys['owner']}"}
    before = len(shared.service.engine.paths)
    for method in ("GET", "POST", "DELETE"):
        url = httpx.URL(shared.service.url).copy_with(raw_path=path.encode())
        answer = shared.service.client.request(method, url, json={}, headers=headers)
        assert answer.status_code in (404, 405), (method, path)
        assert answer.json()["error"]["code"] in ("not_found", "method_not_allowed")
    assert len(shared.service.engine.paths) == before, "the engine was asked"


@pytest.mark.parametrize("field", ["kv_transfer_params", "ec_transfer_params", "prompt_embeds"])
def test_fields_that_reach_into_the_engine_are_refused(shared: Shared, field: str) -> None:
    headers = {"Authorization": f"Bearer {shared.keys['owner']}"}
    body = {"model": "tiny-model", "prompt": "hi", field: {"remote_host": "10.0.0.1"}}
    check(shared.service.client.post("/v1/completions", json=body, headers=headers), 400, field)
