"""What the audit log of a running service says, and what no log ever says."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from service.auth import hash_key
from service.cli import app as command_line
from tests.contract.conftest import StartService
from tests.contract.test_errors import check
from tests.waiting import PATIENCE_S, wait_for

SECRET = "the-combination-is-4711"


def test_events_of_an_adapters_life(
    start_service: StartService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, audit = tmp_path / "keys.json", tmp_path / "audit.log"
    names = {"laptop": "acme", "intruder": "beta"}
    entries = [{"name": name, "tenant": tenant, "sha256": hash_key(f"key-{name}")} for name, tenant in names.items()]
    keys.write_text(json.dumps({"keys": entries}))
    caplog.set_level("DEBUG")
    service = start_service(api_keys_file=keys, audit_log=audit)

    def ask(key: str, method: str, path: str, **options: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer key-{key}", "x-request-id": f"{key}-{method}"}
        return service.client.request(method, path, headers=headers, **options)  # type: ignore[arg-type]

    body = {"text": SECRET, "metadata": {"note": SECRET}}
    made = ask("laptop", "POST", "/contextualize", json=body).json()["id"]
    ask("laptop", "POST", "/contextualize", json=body)
    ask("intruder", "POST", "/generate", json={"adapter_id": made, "prompt": SECRET})
    ask("intruder", "GET", f"/adapters/{made}")
    ask("laptop", "GET", "/adapters/" + SECRET)
    ask("wrong", "GET", "/adapters")
    assert ask("laptop", "DELETE", f"/adapters/{made}").status_code == 204

    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    assert [(line["event"], line["tenant"], line["adapter"], line.get("reason")) for line in lines] == [
        ("created", "acme", made, None),
        ("reused", "acme", made, None),
        ("denied", "beta", made, "someone else's"),
        ("denied", "beta", made, "someone else's"),
        ("denied", "acme", None, "not there"),
        ("denied", None, None, "no valid key"),
        ("deleted", "acme", made, None),
    ]
    assert lines[0]["key"] == "laptop"
    assert lines[0]["request_id"] == "laptop-POST"
    assert lines[-1]["removed"]["store"] == {"meta": 1, "factors": 1, "state": 0, "index": 1}
    logged = "\n".join(
        record.getMessage() for record in caplog.records if record.name.startswith(("service", "uvicorn"))
    )
    for said in (audit.read_text(), logged, service.client.get("/metrics").text):
        assert SECRET not in said
        assert "key-laptop" not in said
        assert hash_key("key-laptop") not in said


def test_limits_of_tenants_and_keys(start_service: StartService, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    limits = {"many": {}, "few": {"max_adapters": 2}, "small": {"max_bytes": 10}}
    entries = [
        {"name": name, "tenant": f"limited-{name}", "sha256": hash_key(name), "limits": own}
        for name, own in limits.items()
    ]
    keys.write_text(json.dumps({"keys": entries}))
    service = start_service(api_keys_file=keys, max_adapters=3)

    def create(key: str, text: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {key}"}
        return service.client.post("/contextualize", json={"text": text, "ttl_seconds": 60}, headers=headers)

    for key, allowed in (("many", 3), ("few", 2), ("small", 0)):
        for number in range(allowed):
            assert create(key, f"document {number}").status_code == 201
        refused = create(key, "one too many")
        assert check(refused, 429)["code"] == "limit_reached"
        assert int(refused.headers["retry-after"]) <= (60 if allowed else 3600)
    assert create("few", "document 0").status_code == 200, "what there is may be asked for again"


def test_too_much_at_once_is_busy(start_service: StartService) -> None:
    service = start_service(max_requests=1, max_body_bytes=1 << 20, max_buffered_bytes=1 << 20)
    service.backend.open.clear()
    with httpx.Client(base_url=service.url, timeout=PATIENCE_S) as other:
        waiting = threading.Thread(target=lambda: other.post("/contextualize", json={"text": "held for a while"}))
        waiting.start()
        try:
            wait_for(lambda: "genadapter_requests_in_flight 2.0" in service.client.get("/metrics").text)
            check(service.client.get("/adapters"), 429)
            assert service.client.get("/healthz").status_code == 200
        finally:
            service.backend.open.set()
            waiting.join()
    assert service.client.get("/adapters").status_code == 200


@pytest.mark.parametrize("path", ["/contextualize", "/generate", "/v1/completions"])
def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing(start_service: StartService, path: str) -> None:
    """Neither a request that runs nor bytes that count: with room for one of each, the next client is served."""
    service = start_service(max_requests=1, max_body_bytes=1 << 20, max_buffered_bytes=1 << 20)
    for _ in range(3):
        with service.connect() as connection:
            head = (
                f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
            )
            connection.sendall(head.encode() + b'{"text": "' + b"x" * 700_000)
            wait_for(lambda: "genadapter_requests_in_flight 2.0" in service.client.get("/metrics").text)
        wait_for(lambda: "genadapter_requests_in_flight 1.0" in service.client.get("/metrics").text)
    body = b'{"text": "' + b"y " * 300_000 + b'"}'
    answer = service.client.post("/contextualize", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 413, "too many tokens, but not too busy"
    assert "genadapter_requests_in_flight 1.0" in service.client.get("/metrics").text


def test_a_client_that_leaves_frees_its_parser(start_service: StartService, monkeypatch: pytest.MonkeyPatch) -> None:
    service = start_service(parse_workers=1)
    parser, freed = service.app.state.services.parser, threading.Event()

    async def without_end(*arguments: object) -> None:
        try:
            await asyncio.sleep(600)
        finally:
            freed.set()

    with monkeypatch.context() as patch:
        patch.setattr(parser, "_run_child", without_end)
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.html"\r\n\r\n<p>a</p>\r\n--b--\r\n'
        head = "POST /contextualize HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        with service.connect() as connection:
            connection.sendall(head.encode() + body)
            wait_for(lambda: parser._waiting == 1)
        assert freed.wait(10)
    assert service.client.post("/contextualize", files={"file": ("a.html", b"<p>a</p>")}).status_code == 201


def test_a_stream_counts_as_its_keys_request_until_its_end(start_service: StartService, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    limits = {"one": {"max_in_flight": 1}, "other": {}}
    entries = [
        {"name": name, "tenant": "shared", "sha256": hash_key(name), "limits": own} for name, own in limits.items()
    ]
    keys.write_text(json.dumps({"keys": entries}))
    service = start_service(api_keys_file=keys)

    def ask(key: str) -> httpx.Response:
        return service.client.get("/adapters", headers={"Authorization": f"Bearer {key}"})

    body = {"prompt": "slow words", "stream": True}
    with httpx.Client(base_url=service.url, headers={"Authorization": "Bearer one"}, timeout=PATIENCE_S) as client:
        with client.stream("POST", "/generate", json=body) as response:
            lines = response.iter_lines()  # kept: the connection closes with it
            next(lines)
            assert check(ask("one"), 429)["code"] == "limit_reached"
            assert ask("other").status_code == 200
        wait_for(lambda: ask("one").status_code == 200)


def test_a_tenant_leaves_with_all_that_it_had(start_service: StartService, tmp_path: Path) -> None:
    keys, audit = tmp_path / "keys.json", tmp_path / "audit.log"
    entries = [{"name": name, "tenant": f"leaves-{name}", "sha256": hash_key(name)} for name in ("one", "other")]
    keys.write_text(json.dumps({"keys": entries}))
    service = start_service(api_keys_file=keys, audit_log=audit)
    for key, count in (("one", 3), ("other", 1)):
        for number in range(count):
            headers = {"Authorization": f"Bearer {key}"}
            service.client.post("/contextualize", json={"text": f"leaving {number}"}, headers=headers)
    environment = {"GENADAPTER_URL": service.url, "GENADAPTER_API_KEY": "one"}
    done = CliRunner().invoke(command_line, ["adapters", "delete", "--all", "--json"], env=environment)
    assert len(json.loads(done.stdout)["deleted"]) == 3
    receipts = [json.loads(line) for line in audit.read_text().splitlines() if '"deleted"' in line]
    assert [receipt["removed"]["store"]["factors"] for receipt in receipts] == [1, 1, 1]
    for key, left in (("one", 0), ("other", 1)):
        page = service.client.get("/adapters", headers={"Authorization": f"Bearer {key}"}).json()
        assert len(page["data"]) == left
