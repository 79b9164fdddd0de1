"""How `genadapter serve` ends, and what it says when it cannot start."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from service.cli import app
from service.commands import stages
from service.commands.serve import _listen, _tell_access
from service.commands.stages import Stages
from service.settings import Settings

# A pass of the generator that is still running when everything else has ended.
BUSY = """
import threading, time
from concurrent.futures import ThreadPoolExecutor
from service.commands import serve

async def ended(settings, stages):
    ThreadPoolExecutor(1).submit(time.sleep, 600)
    print("all closed")
    return 7

serve._serve = ended
serve.serve(host=None, port=None)
"""


def test_the_end_waits_for_no_thread() -> None:
    ended = subprocess.run([sys.executable, "-c", BUSY], capture_output=True, timeout=60)
    assert ended.returncode == 7, ended.stderr
    assert ended.stdout == b"all closed\n", "what was printed is not lost"


def test_no_answer_waits_for_an_acknowledgement() -> None:
    with _listen(Settings(_env_file=None, port=0)) as listener, socket.create_connection(listener.getsockname()):
        accepted, _ = listener.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_what_keeps_it_from_starting_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GENADAPTER_DATA_DIR", str(tmp_path))
    monkeypatch.setattr("service.commands.checks.CONNECT_S", 0.2)  # what has the port says nothing
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for environment, options, words in (
            ({}, ["--port", str(port)], f"127.0.0.1:{port}: another program does"),
            ({}, ["--host", "192.0.2.1", "--port", "0"], "must be an address of this machine"),
            ({"GENADAPTER_GENERATOR": "nowhere"}, [], "nowhere"),
            ({"GENADAPTER_BASE_MODEL": "/nowhere"}, ["--port", "0"], "GENADAPTER_BASE_MODEL"),
            ({"GENADAPTER_DATA_DIR": "/proc/nowhere"}, ["--port", "0"], "set GENADAPTER_DATA_DIR"),
            ({"GENADAPTER_PORT": "many"}, [], "GENADAPTER_PORT"),
        ):
            with monkeypatch.context() as patch:
                patch.setenv("GENADAPTER_ALLOW_ANYONE_TO_USE_THIS_SERVICE", "true")
                for name, value in environment.items():
                    patch.setenv(name, value)
                for_people = CliRunner().invoke(app, ["serve", *options])
                for_programs = CliRunner().invoke(app, ["serve", *options, "--json"])
            assert (for_people.exit_code, for_programs.exit_code) == (2, 2), for_people.output
            assert words in for_people.stderr.splitlines()[-1]
            assert words in json.loads(for_programs.stdout)["error"]["message"]


def test_it_says_whom_it_is_open_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for fields, words in (
        ({}, "only this machine"),
        ({"host": "0.0.0.0", "allow_anyone_to_use_this_service": True}, "warning: other machines"),
        ({"api_keys_file": tmp_path}, ""),
    ):
        _tell_access(Settings(_env_file=None, **fields), Stages())  # type: ignore[arg-type]
        told = capsys.readouterr().err
        assert words in told
        assert bool(told) == bool(words)


def test_readiness_is_told_to_people_and_to_programs(capsys: pytest.CaptureFixture[str]) -> None:
    settings, url = Settings(_env_file=None), "http://127.0.0.1:8123"
    Stages().all_is_ready(url, settings)
    told = capsys.readouterr().out
    texts = [json.loads(body) for body in re.findall(r"-d '(.+)'", told)]
    assert [sorted(text) for text in texts] == [["text"], ["adapter_id", "messages", "temperature"]]
    assert f"Playground: {url}/ " in told
    Stages(as_json=True).all_is_ready(url, settings)
    told = capsys.readouterr()
    assert json.loads(told.out)["url"] == url
    assert f"ready on {url}" in told.err


def test_what_takes_long_is_said_again(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    said = Stages()
    said.still({"engine": "does not answer"})
    assert capsys.readouterr().err == "", "not while something was said a moment ago"
    monkeypatch.setattr(stages, "STILL_S", 0.0)
    said.still({"store": "ok", "engine": "does not answer"})
    assert capsys.readouterr().err.endswith("still waiting for: engine (does not answer yet)\n")
