"""What the demonstration runs, each part a supervised child of its own on the loopback interface.

clients ─> nginx ─> contextualize-0, -1 ──────────────> store
              └───> generate-0 ─> engine-0 ─> store, generate-1 ─> engine-1 ─> store
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx
import yaml

from service.children import LOOPBACK, engine_child, store_child
from service.launcher import Child, ChildSpec, Supervisor
from service.settings import Settings

ROUTES = Path(__file__).parents[2] / "k8s" / "components" / "gateway-api" / "gateway.yaml"
ROLES = ("contextualize", "generate")
EACH = 2
PROBE_S = 5.0
GRACE_S = 45.0  # a replica's own drain is 30 s
NGINX = """
daemon off; worker_processes 1; error_log {folder}/error.log; pid {folder}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  access_log off; client_max_body_size 64m; proxy_buffering off; proxy_read_timeout 630s;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/f; uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  # A replica that is gone, or whose engine is, is passed over; the same request again is the same adapter.
  proxy_next_upstream error timeout http_503 non_idempotent; proxy_next_upstream_tries 2;
  add_header x-served-by $upstream_addr always;
{upstreams}
  map "$request_method $uri" $role {{
    default "";
{routes}
  }}
  server {{
    listen 127.0.0.1:{port};
    location = /nginx {{ return 204; }}
    location / {{ if ($role = "") {{ return 404; }} proxy_pass http://$role; }}
  }}
}}
"""


@dataclass
class Cluster:
    """Parts by name; addresses of the replicas and of nginx ("front"); how long a part may take to start."""

    start_s: float
    log: Path
    children: dict[str, Child] = field(default_factory=dict)
    urls: dict[str, str] = field(default_factory=dict)

    def of(self, role: str) -> list[str]:
        return [f"{role}-{number}" for number in range(EACH)]


def nginx_configuration(folder: Path, port: int, upstreams: dict[str, list[str]]) -> str:
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
        f"  upstream {role} {{ {' '.join(f'server {address} max_fails=1 fail_timeout=2s;' for address in addresses)} }}"
        for role, addresses in upstreams.items()
    )
    return NGINX.format(folder=folder, port=port, upstreams=blocks, routes=routes)


def quiet_port() -> int:
    """A free port below those that the kernel gives to outgoing connections: it stays free until a slow starter listens."""
    first_of_the_kernel = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(first_of_the_kernel // 2, first_of_the_kernel)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


async def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        async with httpx.AsyncClient(timeout=PROBE_S, trust_env=False) as client:
            return (await client.get(url)).is_success
    return False


@contextlib.asynccontextmanager
async def started(folder: Path, nginx: str) -> AsyncIterator[Cluster]:
    """All of it, ready, each a child that is started again when it ends. The engines share the store and nothing else."""
    settings = Settings(engine_args="--dtype float32", max_model_len=1024, kv_cache_gib=0.25, _env_file=None)
    cluster = Cluster(settings.engine_start_timeout.total_seconds(), folder / "children.log")
    async with AsyncExitStack() as stack:
        log = stack.enter_context(cluster.log.open("a"))
        supervisor = await stack.enter_async_context(Supervisor(lambda line: print(line, file=log, flush=True)))

        async def ready(*specs: ChildSpec) -> None:
            begin = time.monotonic()
            cluster.children |= {spec.name: supervisor.start(spec) for spec in specs}
            for spec in specs:
                await cluster.children[spec.name].wait_ready(cluster.start_s)
            print(f"[{time.monotonic() - begin:5.1f} s] ready: {', '.join(spec.name for spec in specs)}", flush=True)

        store, redis_url = store_child(folder / "data")
        await ready(store)
        engines = []
        for number in range(EACH):  # one after the other: each wants every core while it starts
            spec, url = await asyncio.to_thread(engine_child, settings, redis_url, quiet_port())
            cache = {"GENADAPTER_ADAPTER_CACHE": str(folder / f"cache-{number}")}
            await ready(replace(spec, name=f"engine-{number}", environment={**spec.environment, **cache}))
            engines.append(url)
        replicas = [
            replica(f"{role}-{number}", role, redis_url, engines[number]) for role in ROLES for number in range(EACH)
        ]
        cluster.urls = {spec.name: url for spec, url in replicas}
        await ready(*(spec for spec, _ in replicas))
        spec, cluster.urls["front"] = _front(folder, nginx, cluster)
        await ready(spec)
        yield cluster


def replica(name: str, roles: str, redis_url: str, engine_url: str) -> tuple[ChildSpec, str]:
    """One `genadapter serve`, and its address."""
    url = f"http://{LOOPBACK}:{quiet_port()}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GENADAPTER_")}
    environment |= {"GENADAPTER_ROLES": roles, "GENADAPTER_REDIS_URL": redis_url, "GENADAPTER_ENGINE_URL": engine_url}
    command = (sys.executable, "-m", "service.cli", "serve", "--port", url.rsplit(":", 1)[1])
    spec = ChildSpec(name, command, environment, lambda: answers(f"{url}/readyz"), grace_s=GRACE_S)
    return spec, url


def _front(folder: Path, nginx: str, cluster: Cluster) -> tuple[ChildSpec, str]:
    port = quiet_port()
    upstreams = {role: [cluster.urls[name].removeprefix("http://") for name in cluster.of(role)] for role in ROLES}
    configuration = folder / "nginx.conf"
    configuration.write_text(nginx_configuration(folder, port, upstreams))
    url = f"http://127.0.0.1:{port}"
    command = (nginx, "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(configuration))
    return ChildSpec("nginx", command, dict(os.environ), lambda: answers(f"{url}/nginx")), url
