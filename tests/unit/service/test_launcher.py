"""Supervision with small children: restarts, groups, and an end with us even when we are killed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from service import children, launcher
from service.launcher import KEEPER, ChildFailed, ChildSpec, Supervisor
from service.settings import Settings
from tests.waiting import wait_for

# Writes its own process id and that of a grandchild, then sleeps.
WITH_GRANDCHILD = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open(sys.argv[1], "w").write(f"{os.getpid()} {child.pid}")
time.sleep(600)
"""


async def ready() -> bool:
    return True


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def spec(code: str, *arguments: str, **options) -> ChildSpec:
    return ChildSpec(
        "child", [sys.executable, "-c", code, *arguments], dict(os.environ), options.pop("is_ready", ready), **options
    )


def test_started_again_whatever_the_exit_code_and_shown_with_a_prefix():
    lines: list[str] = []

    async def run() -> None:
        async with Supervisor(lines.append) as supervisor:
            child = supervisor.start(spec("print('\\x1b[31mhello\\x1b[0m\\rworld')"))
            await asyncio.to_thread(wait_for, lambda: child.restarts >= 2, 20)

    asyncio.run(run())
    assert lines.count("child | hello") >= 2
    assert "child | world" in lines
    assert any("ended with code 0; started again" in line for line in lines)


def test_a_child_that_never_gets_ready_is_reported_with_its_last_lines():
    async def never() -> bool:
        return False

    async def run() -> None:
        async with Supervisor(lambda line: None) as supervisor:
            child = supervisor.start(spec("import sys; sys.exit('no such model')", is_ready=never))
            await child.wait_ready(30, max_exits=1)

    with pytest.raises(ChildFailed, match="no such model"):
        asyncio.run(run())


def test_a_child_that_hangs_is_ended_and_started_again(monkeypatch):
    monkeypatch.setattr(launcher, "HANG_POLL_S", 0.02)
    asked: list[int] = []  # in which life

    async def run() -> None:
        async def answers() -> bool:
            """Once in the first life, always in the second."""
            asked.append(child.restarts)
            return child.restarts > 0 or len(asked) == 1

        async with Supervisor(lambda line: None) as supervisor:
            child = supervisor.start(spec("import time; time.sleep(600)", is_ready=answers, hang_s=0.2))
            await asyncio.to_thread(wait_for, lambda: asked.count(1) >= 20, 20)
            assert child.restarts == 1, "the second life answers, and goes on"

    asyncio.run(run())


def test_stopping_ends_grandchildren_too(tmp_path):
    pids = tmp_path / "pids"

    async def run() -> None:
        async with Supervisor(lambda line: None) as supervisor:
            supervisor.start(spec(WITH_GRANDCHILD, str(pids)))
            await asyncio.to_thread(wait_for, lambda: pids.exists() and len(pids.read_text().split()) == 2, 10)

    asyncio.run(run())
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_a_child_that_is_not_ready_yet_is_not_asked_to_end(tmp_path):
    """vLLM, asked while it starts, first goes on with that."""
    pids = tmp_path / "pids"
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WITH_GRANDCHILD

    async def never() -> bool:
        return False

    async def run() -> None:
        async with asyncio.timeout(30), Supervisor(lambda line: None) as supervisor:
            supervisor.start(spec(stubborn, str(pids), is_ready=never, grace_s=600))
            await asyncio.to_thread(wait_for, lambda: pids.exists() and len(pids.read_text().split()) == 2, 30)

    asyncio.run(run())
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_everything_ends_when_the_service_is_killed(tmp_path):
    pids = tmp_path / "pids"
    service = f"""
import asyncio, sys
from service.launcher import ChildSpec, Supervisor
async def ready(): return True
async def run():
    async with Supervisor() as supervisor:
        supervisor.start(ChildSpec("child", [sys.executable, "-c", {WITH_GRANDCHILD!r}, {str(pids)!r}], {{}}, ready, grace_s=1))
        await asyncio.sleep(600)
asyncio.run(run())
"""
    process = subprocess.Popen([sys.executable, "-c", service])
    try:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    wait_for(lambda: all(gone(int(pid)) for pid in pids.read_text().split()))


def family_of_a_killed_keeper(pids: Path, code: str, guard_too: bool = False) -> tuple[list[int], list[int]]:
    """Child and grandchild; and the keeper's own children, its guard among them. The keeper has been killed."""
    command = [sys.executable, str(KEEPER), "600", sys.executable, "-c", code, str(pids)]
    keeper = subprocess.Popen(command, stdin=subprocess.PIPE)
    try:
        wait_for(lambda: pids.exists() and len(pids.read_text().split()) == 2)
        kept = [int(pid) for pid in pids.read_text().split()]
        own = [int(pid) for pid in Path(f"/proc/{keeper.pid}/task/{keeper.pid}/children").read_text().split()]
        for pid in set(own) - set(kept) if guard_too else ():
            os.kill(pid, signal.SIGKILL)
    finally:
        keeper.kill()
        keeper.communicate()
    return kept, own


def test_everything_ends_at_once_when_the_keeper_is_killed(tmp_path):
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + WITH_GRANDCHILD
    kept, own = family_of_a_killed_keeper(tmp_path / "pids", stubborn)
    wait_for(lambda: all(gone(pid) for pid in kept + own))


def test_the_child_ends_even_when_the_guard_is_killed_too(tmp_path):
    (child, grandchild), _ = family_of_a_killed_keeper(tmp_path / "pids", WITH_GRANDCHILD, guard_too=True)
    try:
        wait_for(lambda: gone(child))
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_an_engine_that_cannot_compile_does_not_try(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else the first request for log probabilities would end it."""
    monkeypatch.setattr(children, "is_cpu_build", lambda: True)
    monkeypatch.setattr(children, "_can_compile", lambda: True)
    assert "TORCHDYNAMO_DISABLE" not in children.engine_environment(Settings(), "redis://x", tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(children, "is_cpu_build", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert children.engine_environment(Settings(), "redis://x", tmp_path)["TORCHDYNAMO_DISABLE"] == "1"
