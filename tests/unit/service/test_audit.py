"""The audit log: lines that machines read, in a file that only its owner does, whatever is thrown at it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from service import audit
from service.audit import AuditLog, Who

ID = "ga-" + "1" * 32
WHO = Who("acme", "laptop", "request-1")


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_events_and_refusals(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    log = AuditLog(path, 1 << 20)
    log.write("deleted", WHO, ID, removed={"store": {"meta": 1}})
    log.denied(WHO, "not there", "a text that is no id\n")
    log.denied(Who(None, None, "r"), "no valid key")
    log.close()
    deleted, unknown, keyless = lines(path)
    assert deleted["removed"] == {"store": {"meta": 1}}
    assert [deleted[name] for name in ("event", "tenant", "key", "request_id", "adapter")] == [
        "deleted",
        "acme",
        "laptop",
        "request-1",
        ID,
    ]
    assert unknown["adapter"] is None
    assert "a text" not in path.read_text()
    assert (keyless["tenant"], keyless["reason"]) == (None, "no valid key")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_flood_of_refusals_is_counted_not_written(tmp_path: Path, monkeypatch: Any) -> None:
    now = 0.0
    monkeypatch.setattr(audit.time, "monotonic", lambda: now)
    log = AuditLog(tmp_path / "audit.log", 1 << 20)
    for _ in range(1000):
        log.denied(WHO, "no valid key")
    now = 10.0
    log.denied(WHO, "no valid key")
    log.close()
    written = lines(tmp_path / "audit.log")
    assert len(written) == audit.DENIED_BURST + 1
    assert written[-1]["suppressed"] == 1000 - audit.DENIED_BURST


def test_the_file_is_rotated(tmp_path: Path) -> None:
    log = AuditLog(tmp_path / "audit.log", 64 * 1024)
    for _ in range(8000):
        log.write("created", WHO, ID, bytes=1)
    log.close()
    files = list(tmp_path.iterdir())
    assert len(files) == audit.KEPT_FILES + 1
    assert all(path.stat().st_size <= 64 * 1024 and stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the file's own, when it is collected
def test_a_full_disk_stops_nothing(caplog: Any, capsys: Any) -> None:
    log = AuditLog(Path("/dev/full"), 1 << 20)
    for _ in range(100):
        log.write("created", WHO, ID)
    assert [record.getMessage() for record in caplog.records] == [
        "the audit log /dev/full cannot be written: lines are lost"
    ]
    log.close()
    assert capsys.readouterr().err == "", "no stack for each line"
