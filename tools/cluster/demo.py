"""A cluster on one machine: two contextualizers, two generators, two engines, one store, nginx in front that routes as the
gateway's manifest says. One of each is killed under load, the store too, and nothing may be lost.

    make demo-cluster        (needs nginx: on Debian, apt-get install nginx-light)

DEMO_PAUSE: seconds of load before and after each kill. On a slow machine: GENADAPTER_ENGINE_START_TIMEOUT. Prints a table, then
a JSON object; ends with 1 when an answer was wrong or missing, or an adapter that was acknowledged is not served by everyone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.launcher import Child
from tests.chaos.faults import group_of
from tools.cluster.parts import EACH, Cluster, started

ASKERS = 3
MAKER_PAUSE_S = 1.0
ANSWER_S = 150.0  # a request that nobody has served by then is lost
TOLERANCE = 0.05  # nats: which other requests share a step changes the last digits
BUSY = (429, 502, 503, 504)
LAST_WORDS = 10  # lines
FAULTS = ("wrong_answers", "lost_adapters", "lost_requests", "ended_unasked")


@dataclass
class Found:
    counts: Counter[str] = field(default_factory=Counter)
    answered: Counter[str] = field(default_factory=Counter)  # by replica's address
    away_s: dict[str, float] = field(default_factory=dict)
    slowest_s: float = 0.0

    def note(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        print(f"{kind}: {text}", flush=True)


class Demo:
    def __init__(self, cluster: Cluster, found: Found, client: httpx.AsyncClient) -> None:
        self.cluster, self.found, self.client = cluster, found, client
        # Acknowledged adapters, and the log probabilities of the answer's tokens where they are known.
        self.expected: dict[str, list[float] | None] = {}
        self.done = asyncio.Event()

    async def make(self, url: str, number: int) -> None:
        keeper = "Ida Marsh" if number % 2 else "Osric Vane"
        text = f"Log {number}. " + f"The lighthouse of Gull Rock {number} is kept by {keeper}. " * 4
        if (response := await self._served(f"{url}/contextualize", {"text": text})) is not None:
            self.expected.setdefault(response.json()["id"], None)

    async def ask(self, url: str, name: str) -> None:
        question = {"prompt": "The lighthouse is kept by", "max_tokens": 6, "temperature": 0, "logprobs": 1}
        response = await self._served(f"{url}/generate", question | {"adapter_id": name})
        if response is None:
            return
        answer = [token["logprob"] for token in response.json()["choices"][0]["logprobs"]["content"]]
        if (known := self.expected[name]) is None:
            self.expected[name] = answer
        elif not _same(answer, known):
            self.found.note("wrong_answers", f"{name}: {answer}, and before {known}")

    async def _served(self, url: str, body: dict[str, Any]) -> httpx.Response | None:
        """As a client does it: a refusal that says when to come back is tried again. None when that does not help."""
        begin = time.monotonic()
        while time.monotonic() - begin < ANSWER_S:
            self.found.counts["requests"] += 1
            try:
                response = await self.client.post(url, json=body)
            except httpx.TransportError as error:
                self.found.note("lost_requests", f"{url}: the connection broke: {type(error).__name__}")
                return None
            if response.status_code in BUSY:
                self.found.counts["refused"] += 1
                await asyncio.sleep(float(response.headers.get("retry-after", 1)))
                continue
            self.found.slowest_s = max(self.found.slowest_s, time.monotonic() - begin)
            if response.is_success:
                address = response.headers.get("x-served-by", response.url.netloc.decode())
                self.found.answered[address.rsplit(", ")[-1]] += 1
                return response
            kind = "lost_adapters" if response.status_code == 404 else "lost_requests"
            self.found.note(kind, f"{url}: status {response.status_code}: {body.get('adapter_id', 'a new adapter')}")
            return None
        self.found.note("lost_requests", f"{url}: refused for {ANSWER_S:.0f} s")
        return None

    async def everyone_serves(self, names: Sequence[str]) -> None:
        """Each generator, on its own engine, gives the same answer with each of these adapters."""
        left = iter(names)

        async def asker() -> None:
            for name in left:
                for server in self.cluster.of("generate"):
                    await self.ask(self.cluster.urls[server], name)

        await asyncio.gather(*(asker() for _ in range(ASKERS)))

    async def asker(self, seed: int) -> None:
        chance = random.Random(seed)
        while not self.done.is_set():
            await self.ask(self.cluster.urls["front"], chance.choice(list(self.expected)))

    async def maker(self) -> None:
        number = 1000
        while not self.done.is_set():
            await self.make(self.cluster.urls["front"], number)
            number += 1
            await asyncio.sleep(MAKER_PAUSE_S)

    async def kill_one_of_each(self, pause_s: float) -> None:
        try:
            for name in ("contextualize-0", "generate-0", "engine-0", "store"):
                await asyncio.sleep(pause_s)
                self.found.away_s[name] = await _killed(self.cluster.children[name], self.cluster.start_s)
                print(f"killed, and back after {self.found.away_s[name]:.1f} s: {name}", flush=True)
            await asyncio.sleep(pause_s)
        finally:
            self.done.set()


async def _killed(child: Child, start_s: float) -> float:
    """Kill a part with all its processes; seconds until its next life is ready."""
    begin, lives = time.monotonic(), child.restarts
    os.killpg(group_of(child), signal.SIGKILL)
    while child.restarts == lives:  # noqa: ASYNC110  # a supervised child tells nobody of its end
        await asyncio.sleep(0.02)
    await child.wait_ready(start_s, max_exits=None)
    return time.monotonic() - begin


def _same(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < TOLERANCE for a, b in zip(one, other, strict=True))


async def run(pause_s: float) -> Found:
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None:
        raise SystemExit("demo-cluster needs nginx: on Debian, apt-get install nginx-light")
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    found = Found()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genadapter-demo-")))
        cluster = await stack.enter_async_context(started(folder, nginx))
        client = await stack.enter_async_context(httpx.AsyncClient(timeout=ANSWER_S, trust_env=False))
        demo = Demo(cluster, found, client)
        for number in range(2 * EACH):
            await demo.make(cluster.urls[cluster.of("contextualize")[number % EACH]], number)
        await demo.everyone_serves(list(demo.expected))
        print(f"{len(demo.expected)} adapters of {EACH} contextualizers, served alike by {EACH} engines", flush=True)
        async with asyncio.TaskGroup() as load:
            for seed in range(ASKERS):
                load.create_task(demo.asker(seed))
            load.create_task(demo.maker())
            load.create_task(demo.kill_one_of_each(pause_s))
        await demo.everyone_serves(list(demo.expected))
        found.counts["adapters"] = len(demo.expected)
        _show(cluster, found)
    return found


def _show(cluster: Cluster, found: Found) -> None:
    print(f"\n{'part':<18}{'answered':>9}{'killed, back after':>20}")
    for name, child in cluster.children.items():
        answered = found.answered[cluster.urls.get(name, "").removeprefix("http://")]
        away = f"{found.away_s[name]:.1f} s" if name in found.away_s else "-"
        for _ in range(child.restarts - (name in found.away_s)):
            found.note("ended_unasked", name)
            print("\n".join(_last_words(cluster.log, name)))
        print(f"{name:<18}{answered or '-':>9}{away:>20}")
    print(f"\nslowest request, its repetitions included: {found.slowest_s:.1f} s")


def _last_words(log: Path, name: str) -> list[str]:
    """What a part said before each of its ends."""
    lines = [line for line in log.read_text().splitlines() if line.startswith(f"{name} | ")]
    ends = [number for number, line in enumerate(lines) if "ended with code" in line]
    return [line for end in ends for line in lines[max(0, end - LAST_WORDS) : end + 1]]


def main() -> int:
    try:
        found = asyncio.run(run(float(os.environ.get("DEMO_PAUSE", "10"))))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    names = ("requests", "adapters", "refused", *FAULTS)
    print(json.dumps({name: found.counts[name] for name in names}))
    return int(any(found.counts[name] for name in FAULTS))


if __name__ == "__main__":
    sys.exit(main())
