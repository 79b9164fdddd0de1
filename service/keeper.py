"""Keeps one child: `python keeper.py GRACE_SECONDS COMMAND...`, started by the launcher with a pipe as standard input.

The command and all that it starts form one process group. The group is ended when the command ends (a server must not
leave workers behind), when this process is told to stop, and when the pipe closes, which the kernel does for whoever
held its other end, however that process died. Should this process itself be killed outright, its guard, a second process
that does nothing else, kills the group at once: vLLM's workers would hold memory and port for minutes. Only the standard
library: it starts in an instant and stays small.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from types import FrameType

PR_SET_PDEATHSIG = 1
POLL_S = 0.05
ALL_IS_OVER = b"."


def _die_with(parent: int) -> None:
    """In the child, before it becomes the command: covers the moment before there is a guard, and the guard's own death."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # died before it could be watched
        os._exit(1)


def _start_guard(group: int) -> tuple[int, int]:
    """Its process id, and a pipe: closed without a word (as when we are killed), it has the guard kill the group."""
    reading, writing = os.pipe()
    if guard := os.fork():
        os.close(reading)
        return guard, writing
    try:
        os.setsid()  # what is sent to our group is not for the guard
        os.close(writing)
        if os.read(reading, 1) != ALL_IS_OVER:
            _signal_group(group, signal.SIGKILL)
    finally:
        os._exit(0)


def _dismiss_guard(guard: int, pipe: int) -> None:
    with contextlib.suppress(OSError):  # somebody has killed it
        os.write(pipe, ALL_IS_OVER)
    os.waitpid(guard, 0)


def _signal_group(group: int, number: int) -> bool:
    """False when nobody is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)
        return True
    return False


def _end_group(group: int, grace_s: float) -> None:
    """Ask, wait, then kill."""
    _signal_group(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline and _signal_group(group, 0):
        time.sleep(POLL_S)
    _signal_group(group, signal.SIGKILL)


def _wait_for_end_of_file() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def main(arguments: list[str]) -> int:
    grace_s, command = float(arguments[0]), arguments[1:]
    # The child is the leader of its group.
    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        close_fds=False,
        start_new_session=True,
        preexec_fn=partial(_die_with, os.getpid()),
    )
    guard, pipe = _start_guard(child.pid)  # before there are threads, which do not survive a fork

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        threading.Thread(target=_end_group, args=(child.pid, grace_s), daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # a Ctrl-C in the terminal reaches our parent, which then closes the pipe
    threading.Thread(target=_wait_for_end_of_file, daemon=True).start()
    code = child.wait()
    _signal_group(child.pid, signal.SIGKILL)
    _dismiss_guard(guard, pipe)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
