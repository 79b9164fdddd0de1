"""Children of the service and their supervision: the embedded store and the local engine.

A child is started again whatever its exit code (vLLM ends with 0 when its engine dies), with growing pauses, and ends
with this process, even when that is killed (`service/keeper.py`). What the children are: `service/children.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

KEEPER = Path(__file__).with_name("keeper.py")
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# A child that was ready for this long has recovered: its next pause is the first one again.
RECOVERED_S = 60.0
READY_POLL_S = 0.2
HANG_POLL_S = 5.0
EXIT_POLL_S = 0.05
# What a child said last may still be in the pipe when it has ended.
LAST_LINES_S = 1.0
READ_BYTES = 1 << 16
MAX_LINE_BYTES = 4096
KEPT_LINES = 60
# The keeper gives its child this long, and we give the keeper a little more.
KEEPER_MARGIN_S = 5.0
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

State = Literal["starting", "ready", "pausing", "stopped"]
Show = Callable[[str], None]


class ChildFailed(RuntimeError):
    """A child did not become ready; the message ends with its last lines."""


@dataclass(frozen=True)
class ChildSpec:
    """What to start. `is_ready` is asked again and again while the child starts, and now and then afterwards; an OSError
    means no. A child that was ready and says no for `hang_s` is ended, and started again."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[[], Awaitable[bool]]
    grace_s: float = 10.0
    hang_s: float = 120.0
    kept_descriptors: tuple[int, ...] = ()
    on_stop: Callable[[], None] = field(default=lambda: None)


def show_on_stderr(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Child:
    """One supervised process. `state` and `restarts` may be read at any time."""

    def __init__(self, spec: ChildSpec, show: Show) -> None:
        self.spec = spec
        self.state: State = "starting"
        self.restarts = 0
        self.last_exit: int | None = None
        self.last_lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._show = show
        self._ready = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._task = asyncio.create_task(self._supervise())

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    @property
    def pid(self) -> int | None:
        """The keeper's process id while it runs."""
        return self._process.pid if self._process is not None and self._process.returncode is None else None

    async def wait_ready(self, timeout_s: float, max_exits: int | None = 3) -> None:
        """Returns when the child answers. Raises ChildFailed after `timeout_s`, or when it ended `max_exits` times
        before."""
        deadline = time.monotonic() + timeout_s
        exits_before = self.restarts
        while not self._ready.is_set():
            if max_exits is not None and self.restarts - exits_before >= max_exits:
                raise ChildFailed(self._report(f"{self.spec.name} ended {max_exits} times before it was ready"))
            if time.monotonic() > deadline:
                raise ChildFailed(self._report(f"{self.spec.name} was not ready after {timeout_s:.0f} s"))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ready.wait(), READY_POLL_S)

    def _report(self, what: str) -> str:
        exit_code = "" if self.last_exit is None else f" (last exit code {self.last_exit})"
        return f"{what}{exit_code}; it said:\n" + "\n".join(self.last_lines)

    async def _supervise(self) -> None:
        pause_s = FIRST_PAUSE_S
        try:
            while True:
                ready_at = await self._run_once()
                if ready_at is not None and time.monotonic() - ready_at > RECOVERED_S:
                    pause_s = FIRST_PAUSE_S
                self.restarts += 1
                self.state = "pausing"
                self._say(f"ended with code {self.last_exit}; started again in {pause_s:g} s")
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        finally:
            self.state = "stopped"

    async def _run_once(self) -> float | None:
        """One life of the child; when it became ready (monotonic), if it did."""
        self.state = "starting"
        spec = self.spec
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-S",
            "-E",
            str(KEEPER),
            str(spec.grace_s),
            *spec.command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(spec.environment),
            pass_fds=spec.kept_descriptors,
            start_new_session=True,
        )
        watch = asyncio.create_task(self._watch_ready())
        hang = asyncio.create_task(self._watch_hang(process))
        relay = asyncio.create_task(self._relay(process))
        try:
            self.last_exit = await _exit_code(process)
            await asyncio.wait({relay}, timeout=LAST_LINES_S)
            return watch.result() if watch.done() and not watch.cancelled() else None
        finally:
            for task in (watch, hang, relay):
                task.cancel()
            self._ready.clear()

    async def _watch_ready(self) -> float:
        while not await self._answers():  # noqa: ASYNC110  # another process's answer is no event
            await asyncio.sleep(READY_POLL_S)
        self.state = "ready"
        self._ready.set()
        return time.monotonic()

    async def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            return await self.spec.is_ready()
        return False

    async def _watch_hang(self, process: asyncio.subprocess.Process) -> None:
        await self._ready.wait()
        answered_s = time.monotonic()
        while time.monotonic() - answered_s < self.spec.hang_s:
            await asyncio.sleep(HANG_POLL_S)
            if await self._answers():
                answered_s = time.monotonic()
        self._say(f"has not answered for {self.spec.hang_s:g} s: it is ended")
        process.terminate()  # the keeper, which asks the child's group to end and then makes it

    async def _relay(self, process: asyncio.subprocess.Process) -> None:
        """Show the child's lines, prefixed. A progress bar's carriage returns end a line too; endless lines are cut."""
        assert process.stdout is not None  # it is a pipe
        rest = b""
        while data := await process.stdout.read(READ_BYTES):
            *lines, rest = (rest + data).replace(b"\r", b"\n").split(b"\n")
            if len(rest) > MAX_LINE_BYTES:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._say(line[:MAX_LINE_BYTES].decode(errors="replace"))
        self._say(rest.decode(errors="replace"))

    def _say(self, text: str) -> None:
        text = _COLOUR.sub("", text).rstrip()
        if text:
            self.last_lines.append(text)
            self._show(f"{self.spec.name} | {text}")

    async def stop(self) -> None:
        """End the child and wait for it: at once if it was not ready yet, when it has nothing to finish. Idempotent."""
        was_ready = self.is_ready
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        process = self._process
        if process is not None and process.returncode is None:
            await self._end(process, asked=was_ready)
        self.spec.on_stop()

    async def _end(self, process: asyncio.subprocess.Process, asked: bool) -> None:
        relay = asyncio.create_task(self._relay(process))
        try:
            if asked and process.stdin is not None:
                process.stdin.close()  # tells the keeper
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self.spec.grace_s + KEEPER_MARGIN_S):
                        await _exit_code(process)
            if process.returncode is None:
                process.kill()  # the keeper, whose guard then kills the group
                await _exit_code(process)
                await asyncio.wait({relay}, timeout=LAST_LINES_S)  # until all are gone who could have said more
        finally:
            relay.cancel()


async def _exit_code(process: asyncio.subprocess.Process) -> int:
    """Polled: `Process.wait` also waits until every holder of the pipes is gone, and a stray grandchild may hold one."""
    while process.returncode is None:  # noqa: ASYNC110
        await asyncio.sleep(EXIT_POLL_S)
    return process.returncode


class Supervisor:
    """Children by name; an async context manager that stops them, the last started first."""

    def __init__(self, show: Show = show_on_stderr) -> None:
        self.children: dict[str, Child] = {}
        self._show = show

    def start(self, spec: ChildSpec) -> Child:
        child = self.children[spec.name] = Child(spec, self._show)
        return child

    async def stop(self) -> None:
        while self.children:
            _, child = self.children.popitem()
            await child.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()
