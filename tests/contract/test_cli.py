"""The command line against a running service: output for people and for machines, exit codes, errors in words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from tests.contract.conftest import Service

UNKNOWN = "ga-" + "0" * 32


@pytest.fixture
def run(service: Service, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setenv("GENADAPTER_URL", service.url)
    return lambda *arguments, **options: CliRunner().invoke(app, [str(item) for item in arguments], **options)


def test_from_files_to_an_answer(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for name in ("one.txt", "two.md"):
        (tmp_path / name).write_text(f"what {name} says")
    made = run("contextualize", tmp_path / "one.txt", tmp_path / "two.md", "--metadata", "a=b", "--ttl", 60, "--json")
    body = json.loads(made.stdout)
    assert made.exit_code == 0
    assert body["metadata"] == {"a": "b"}
    again = run("contextualize", tmp_path / "one.txt", tmp_path / "two.md")
    assert again.stdout.startswith(body["id"])
    assert "had it already" in again.stdout
    assert run("contextualize", "-", input="from standard input").exit_code == 0
    assert run("generate", body["id"], "hi").stdout == "Hello wörld\n"
    assert json.loads(run("generate", "base", "hi", "--raw", "--json").stdout)["adapter_id"] is None
    header, *rows = run("adapters", "list").stdout.splitlines()
    row = next(row for row in rows if row.startswith(body["id"]))
    assert header.split()[:2] == ["ID", "MADE"]
    assert row[header.index("METADATA") :] == "a=b", "the columns stand under their names"
    assert "generator" in run("adapters", "show", body["id"]).stdout
    assert json.loads(run("adapters", "show", body["id"], "--json").stdout)["id"] == body["id"]
    assert json.loads(run("adapters", "delete", body["id"], "--json").stdout) == {"deleted": [body["id"]]}
    assert body["id"] not in run("adapters", "list", "--json").stdout


def test_what_goes_wrong(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "empty.txt").touch()
    for arguments, code, words in (
        (("generate", UNKNOWN, "hi"), 1, "No such adapter"),
        (("generate", "base", "midway there", "--raw"), 1, "engine does not answer"),
        (("adapters", "show", UNKNOWN), 1, "No such adapter"),
        (("contextualize", tmp_path / "empty.txt"), 1, "is empty"),
        (("contextualize", tmp_path / "missing.txt"), 2, "cannot be read"),
        (("contextualize", tmp_path / "empty.txt", "--metadata", "nonsense"), 2, "NAME=VALUE"),
        (("adapters", "delete"), 2, "--all"),
        (("adapters", "list", "--url", "http://127.0.0.1:1"), 3, "genadapter serve"),
        (("adapters", "list", "--url", "nonsense"), 3, "failed"),
    ):
        result = run(*arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert words in result.stderr
        assert "Traceback" not in result.output
    failed = run("adapters", "show", UNKNOWN, "--json")
    assert json.loads(failed.stdout)["error"]["code"] == "adapter_not_found"
