"""`genadapter keys`, and a service's authenticator that reads what it writes."""

from __future__ import annotations

import json
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from service import auth
from service.auth import Authenticator, KeyLimits
from service.cli import app
from service.errors import LimitReached, Unauthorized


def run(file: Path, *arguments: str) -> Any:
    return CliRunner().invoke(app, ["keys", *arguments], env={"GENADAPTER_API_KEYS_FILE": str(file)})


def test_a_key_from_its_making_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "RECHECK_S", 0)
    file = tmp_path / "keys.json"
    first = json.loads(run(file, "add", "laptop", "--tenant", "acme", "--max-in-flight", "1", "--json").stdout)["key"]
    authenticator = Authenticator(file)
    second = run(file, "add", "phone", "--tenant", "beta").stdout.split()[0]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert first not in file.read_text()
    assert second not in file.read_text()

    laptop = authenticator.caller(f"Bearer {first}")
    assert (laptop.tenant, laptop.name, laptop.limits) == ("acme", "laptop", KeyLimits(max_in_flight=1))
    assert authenticator.caller(f"Bearer {second}").tenant == "beta"
    with authenticator.in_flight(laptop), pytest.raises(LimitReached), authenticator.in_flight(laptop):
        pass
    with authenticator.in_flight(laptop):
        pass

    listed = run(file, "list")
    assert "max_in_flight 1" in listed.stdout
    for secret in (first, second, auth.hash_key(first)):
        assert secret not in listed.stdout + run(file, "list", "--json").stdout
    assert run(file, "revoke", "laptop").exit_code == 0
    with pytest.raises(Unauthorized):
        authenticator.caller(f"Bearer {first}")
    assert authenticator.caller(f"Bearer {second}").tenant == "beta"
    assert list(tmp_path.iterdir()) == [file], "nothing is left beside it"


def test_what_goes_wrong_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    assert run(file, "add", "one", "--tenant", "acme").exit_code == 0
    before = file.read_bytes()
    for arguments, code in (
        (("add", "one", "--tenant", "beta"), 1),
        (("add", "two", "--tenant", "no{braces}"), 2),
        (("add", "two", "--tenant", "acme", "--max-bytes", "0"), 2),
        (("revoke", "nobody"), 1),
    ):
        assert run(file, *arguments).exit_code == code, arguments
        assert file.read_bytes() == before
    assert run(tmp_path / "missing" / "keys.json", "add", "x", "--tenant", "t").exit_code == 2
    file.write_text("{")
    assert "cannot be used" in run(file, "list").stderr


def test_writers_wait_for_each_other(tmp_path: Path) -> None:
    import subprocess
    import sys

    file = tmp_path / "keys.json"
    command = [sys.executable, "-m", "service.cli", "keys", "add", "--tenant", "t", "--file", str(file)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: subprocess.run([*command, f"key{number}"], check=True, timeout=60), range(4)))
    assert len(auth.read_keys(file)) == 4
