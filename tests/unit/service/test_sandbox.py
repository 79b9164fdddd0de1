"""What a confined process can still do: each layer alone, where the kernel has it, and all together."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from service.documents import DocumentParser

LAYERS = {
    "namespace": "_leave_networks",
    "landlock": "_close_files",
    "seccomp": "_refuse_calls",
    "hook": "_refuse_events",
}
# Tries what a parser that was taken over might try; one JSON object of what came of it.
ATTEMPTS = """
import ctypes, json, os, resource, socket, sys
from service import sandbox
for name in json.loads(sys.argv[1]):
    setattr(sandbox, name, lambda *arguments: False)
if sys.argv[4:]:
    sandbox.limit_resources(1 << 30, 5)
limits = {n: resource.getrlimit(getattr(resource, "RLIMIT_" + n)) for n in ("AS", "FSIZE", "NOFILE", "CORE", "CPU")}
layers = sandbox.confine()

def attempt(action):
    try:
        action()
        return "done"
    except FileNotFoundError:
        return "done"
    except OSError:
        return "refused"

def connect():
    with socket.socket() as one:
        one.connect(("127.0.0.1", int(sys.argv[2])))

print(json.dumps({
    "layers": layers,
    "connect": attempt(connect),
    "local socket": attempt(lambda: socket.socketpair()),
    "fork": attempt(lambda: os.fork() or os._exit(0)),
    "program": attempt(lambda: os.execv("/nothing", ["x"])),
    "signal": attempt(lambda: os.kill(os.getppid(), 0)),
    "read": attempt(lambda: open("/etc/passwd")),
    "parent": attempt(lambda: open(f"/proc/{os.getppid()}/environ")),
    "write": attempt(lambda: open(sys.argv[3] + "/new", "w")),
    "delete": attempt(lambda: os.unlink(sys.argv[3] + "/kept")),
    "library": attempt(lambda: open(json.__file__)),
    "limits": limits,
}))
"""
ALL = ["connect", "local socket", "fork", "program", "signal", "read", "parent", "write", "delete"]


def tried(tmp_path: Any, port: int, without: list[str], *limits: str) -> dict[str, Any]:
    (tmp_path / "kept").touch()
    arguments = [json.dumps([LAYERS[name] for name in without]), str(port), str(tmp_path), *limits]
    ended = subprocess.run([sys.executable, "-c", ATTEMPTS, *arguments], capture_output=True, timeout=60, check=True)
    found: dict[str, Any] = json.loads(ended.stdout)
    return found


@pytest.mark.parametrize(
    ("layer", "refused"),
    [
        ("namespace", ["connect"]),
        ("landlock", ["connect", "read", "parent", "write", "delete"]),
        ("seccomp", ["connect", "local socket", "fork", "program", "signal", "delete"]),
        ("hook", ["connect", "local socket", "fork", "program", "signal", "write"]),
    ],
)
def test_a_layer_by_itself(tmp_path: Any, layer: str, refused: list[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        found = tried(tmp_path, listener.getsockname()[1], [name for name in LAYERS if name != layer])
    if layer not in found["layers"]:
        pytest.skip(f"this kernel or container has no {layer}")
    assert set(refused) <= {name for name in ALL if found[name] == "refused"}
    assert found["library"] == "done"


def test_all_of_them_leave_reading_libraries(tmp_path: Any) -> None:
    found = tried(tmp_path, 9, [], "limits")
    assert "hook" in found["layers"]
    assert [name for name in ALL if found[name] != "refused" and name not in ("read", "parent")] == []
    assert found["library"] == "done"
    assert found["limits"]["AS"] == [1 << 30, 1 << 30]
    assert [found["limits"][name][0] for name in ("FSIZE", "CORE", "CPU", "NOFILE")] == [0, 0, 5, 64]
    assert (tmp_path / "kept").exists()


def test_the_parser_says_what_confines_it() -> None:
    async def layers() -> list[str]:
        return await DocumentParser(workers=1, timeout_s=20, memory_bytes=1 << 30, unpacked_bytes=1 << 28).confinement()

    assert asyncio.run(layers())[-1] == "hook"


def test_the_parser_sees_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENADAPTER_REDIS_URL", "redis://:password@host")

    async def environment() -> bytes:
        child = await DocumentParser(
            workers=1, timeout_s=20, memory_bytes=1 << 30, unpacked_bytes=1 << 28
        )._start_child("html")
        try:
            return await asyncio.to_thread(Path(f"/proc/{child.pid}/environ").read_bytes)
        finally:
            child.kill()
            await child.communicate()

    seen = asyncio.run(environment())
    assert b"PATH=" in seen
    assert b"password" not in seen
