"""A cluster on one machine: two contextualizers, two generators, two engines, one store, nginx in front that routes as the
gateway's manifest says. One of each is killed under load, and nothing may be lost.

    make demo-cluster            (DEMO_SECONDS=60 of load; needs nginx: on Debian, apt-get install nginx-light)

The last line is a JSON object: requests, wrong_answers, lost_adapters, contract_violations, refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import yaml

from service.children import engine_child, free_port, store_child
from service.launcher import Child, Supervisor
from service.settings import Settings

ROUTES = Path(__file__).parents[1] / "k8s" / "components" / "gateway-api" / "gateway.yaml"
START_S = 400.0
WORKERS = 3
TOLERANCE = 0.05  # nats: which other requests share a step changes the last digits
NGINX = """
daemon off; worker_processes 1; error_log {folder}/error.log; pid {folder}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 64m; proxy_buffering off; proxy_read_timeout 630s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  # A replica that is gone, or whose engine is, is passed over; the same request again is the same adapter.
  proxy_next_upstream error timeout http_503 non_idempotent; proxy_next_upstream_tries 2;
{upstreams}
  map "$request_method $uri" $role {{
    default "";
{routes}
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{ if ($role = "") {{ return 404; }} proxy_pass http://$role; }}
  }}
}}
"""


@dataclass
class Replica:
    """One `genadapter serve` of one role."""

    role: str
    port: int
    environment: dict[str, str]
    log: Path
    process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        with self.log.open("ab") as log:
            command = (sys.executable, "-m", "service.cli", "serve", "--port", str(self.port))
            self.process = await asyncio.create_subprocess_exec(*command, env=self.environment, stdout=log, stderr=log)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> None:
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)
            await self.process.wait()


@dataclass
class Cluster:
    url: str
    replicas: list[Replica]
    engines: list[Child]

    def of(self, role: str) -> list[Replica]:
        return [replica for replica in self.replicas if replica.role == role]


@dataclass
class Found:
    counts: Counter[str] = field(default_factory=Counter)

    def note(self, kind: str, text: str) -> None:
        self.counts[kind] += 1
        print(f"{kind}: {text}", flush=True)


def nginx_configuration(folder: Path, port: int, upstreams: dict[str, list[int]]) -> str:
    """From the gateway's HTTPRoute: exact paths before prefixes, longer before shorter, with a method before without."""
    documents = yaml.safe_load_all(ROUTES.read_text())
    rules = next(item for item in documents if item["kind"] == "HTTPRoute")["spec"]["rules"]
    found = []
    for rule in rules:
        for match in rule["matches"]:
            path, exact = match["path"]["value"], match["path"]["type"] == "Exact"
            pattern = f"{match.get('method', '[A-Z]+')} {path}" + ("$" if exact else "(/|$)")
            found.append(((exact, len(path), "method" in match), pattern, rule["name"]))
    routes = "\n".join(f'    "~^{pattern}" {role};' for _, pattern, role in sorted(found, reverse=True))
    blocks = "\n".join(
        f"  upstream {role} {{ {' '.join(f'server 127.0.0.1:{p} max_fails=1 fail_timeout=2s;' for p in ports)} }}"
        for role, ports in upstreams.items()
    )
    return NGINX.format(folder=folder, port=port, upstreams=blocks, routes=routes)


@contextlib.asynccontextmanager
async def started(folder: Path, nginx: str) -> AsyncIterator[Cluster]:
    """All of it, ready; the engines share the store and nothing else."""
    async with contextlib.AsyncExitStack() as stack:
        log = stack.enter_context((folder / "children.log").open("a"))
        supervisor = await stack.enter_async_context(Supervisor(lambda line: print(line, file=log, flush=True)))
        store, redis_url = store_child(folder / "data")
        await supervisor.start(store).wait_ready(60)
        settings = Settings(_env_file=None, engine_args="--dtype float32", max_model_len=1024, kv_cache_gib=0.25)
        engines, urls = [], []
        for number in range(2):
            spec, url = await asyncio.to_thread(engine_child, settings, redis_url)
            cache = {"GENADAPTER_ADAPTER_CACHE": str(folder / f"cache-{number}")}
            name = f"engine-{number}"
            engines.append(supervisor.start(replace(spec, name=name, environment={**spec.environment, **cache})))
            urls.append(url)
            await engines[-1].wait_ready(START_S)  # one after the other: each wants every core while it starts
            print(f"{name}: ready", flush=True)
        replicas = [
            _replica(role, number, folder, redis_url, urls[number])
            for role in ("contextualize", "generate")
            for number in range(2)
        ]
        for replica in replicas:
            await replica.start()
            stack.push_async_callback(replica.end)
        port = free_port()
        upstreams = {role: [r.port for r in replicas if r.role == role] for role in ("contextualize", "generate")}
        (folder / "nginx.conf").write_text(nginx_configuration(folder, port, upstreams))
        command = (nginx, "-p", str(folder), "-c", str(folder / "nginx.conf"))
        front = await asyncio.create_subprocess_exec(*command, stderr=log)
        stack.callback(front.terminate)
        cluster = Cluster(f"http://127.0.0.1:{port}", replicas, engines)
        await asyncio.gather(*(_ready(replica) for replica in replicas))
        print("four replicas and nginx: ready", flush=True)
        yield cluster


def _replica(role: str, number: int, folder: Path, redis_url: str, engine_url: str) -> Replica:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENADAPTER_")}
    environment |= {"GENADAPTER_ROLES": role, "GENADAPTER_REDIS_URL": redis_url, "GENADAPTER_ENGINE_URL": engine_url}
    return Replica(role, free_port(), environment, folder / f"{role}-{number}.log")


async def _ready(replica: Replica) -> None:
    async with asyncio.timeout(START_S), httpx.AsyncClient(base_url=replica.url, trust_env=False) as client:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == 200:
                    return
            await asyncio.sleep(0.3)


class Demo:
    def __init__(self, cluster: Cluster, found: Found) -> None:
        self.cluster, self.found = cluster, found
        self.expected: dict[str, list[float]] = {}  # adapter: log probabilities of its answer's tokens, and the answer
        self.texts: dict[str, str] = {}
        self.client = httpx.AsyncClient(base_url=cluster.url, timeout=120, trust_env=False)

    async def create(self, url: str, number: int) -> str:
        text = f"The lighthouse of Gull Rock {number} is kept by {'Ida Marsh' if number % 2 else 'Osric Vane'}. " * 4
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            response = await client.post("/contextualize", json={"text": f"Log {number}. {text}"})
        if response.status_code not in (200, 201):
            self._refused("create", response)
            return ""
        name: str = response.json()["id"]
        return name

    async def everybody_serves_everything(self) -> None:
        """Each contextualizer makes adapters; each generator, on its own engine, gives the same answer with them."""
        makers, servers = self.cluster.of("contextualize"), self.cluster.of("generate")
        names = [await self.create(makers[number % 2].url, number) for number in range(4)]
        for name in names:
            answers = [await self._answer(server.url, name) for server in servers]
            self.expected[name] = answers[0]
            if not _same(*answers):
                self.found.note("wrong_answers", f"{name}: the engines differ: {answers}")
        print(f"{len(names)} adapters of two contextualizers, served alike by two engines", flush=True)

    async def _answer(self, url: str, name: str) -> list[float]:
        async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
            response = await client.post("/generate", json=_question(name))
        response.raise_for_status()
        return _logprobs(response.json())

    async def load(self, until_s: float, seed: int) -> None:
        chance = random.Random(seed)
        while time.monotonic() < until_s:
            name = chance.choice(list(self.expected))
            await self.ask(name)
            if chance.random() < 0.1:
                await self.create(self.cluster.url, 1000 + chance.randrange(10_000))

    async def ask(self, name: str) -> None:
        self.found.counts["requests"] += 1
        try:
            response = await self.client.post("/generate", json=_question(name))
        except httpx.TransportError as error:
            self.found.note("contract_violations", f"the connection broke: {type(error).__name__}")
            return
        if response.status_code == 404:
            self.found.note("lost_adapters", name)
        elif response.status_code != 200:
            self._refused("ask", response)
        elif not _same(_logprobs(response.json()), self.expected[name]):
            self.found.note("wrong_answers", name)

    def _refused(self, what: str, response: httpx.Response) -> None:
        kind = "refused" if response.status_code in (429, 502, 503, 504) else "contract_violations"
        self.found.note(kind, f"{what}: status {response.status_code}")

    async def kill_one_of_each(self, seconds: float) -> None:
        """Spread over the load's time; what Kubernetes would start again is started again."""
        pause = seconds / 5
        for role in ("contextualize", "generate"):
            await asyncio.sleep(pause)
            victim = self.cluster.of(role)[0]
            await victim.end(signal.SIGKILL)
            print(f"killed: {role}", flush=True)
            await asyncio.sleep(pause / 2)
            await victim.start()
        await asyncio.sleep(pause)
        engine = self.cluster.engines[0]
        if engine.pid is not None:
            os.kill(engine.pid, signal.SIGKILL)
        print("killed: engine", flush=True)


def _question(name: str) -> dict[str, Any]:
    return {"adapter_id": name, "prompt": "The lighthouse is kept by", "max_tokens": 6, "temperature": 0, "logprobs": 1}


def _logprobs(body: dict[str, Any]) -> list[float]:
    return [token["logprob"] for token in body["choices"][0]["logprobs"]["content"]]


def _same(one: list[float], other: list[float]) -> bool:
    return len(one) == len(other) and all(abs(a - b) < TOLERANCE for a, b in zip(one, other, strict=True))


async def run(seconds: float) -> Counter[str]:
    nginx = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if nginx is None:
        raise SystemExit("demo-cluster needs nginx: on Debian, apt-get install nginx-light")
    found = Found()
    with tempfile.TemporaryDirectory(prefix="genadapter-demo-") as folder:
        async with started(Path(folder), nginx) as cluster:
            demo = Demo(cluster, found)
            await demo.everybody_serves_everything()
            until_s = time.monotonic() + seconds
            await asyncio.gather(demo.kill_one_of_each(seconds), *(demo.load(until_s, n) for n in range(WORKERS)))
            await asyncio.gather(*(_ready(replica) for replica in cluster.replicas))
            for name in demo.expected:
                await demo.ask(name)
            await demo.client.aclose()
    return found.counts


def main() -> int:
    counts = asyncio.run(run(float(os.environ.get("DEMO_SECONDS", "60"))))
    names = ("requests", "wrong_answers", "lost_adapters", "contract_violations", "refused")
    print(json.dumps({name: counts[name] for name in names}))
    return int(any(counts[name] for name in ("wrong_answers", "lost_adapters", "contract_violations")))


if __name__ == "__main__":
    sys.exit(main())
