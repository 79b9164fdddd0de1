"""Dashboards and rules against a running system: service, engine and store under load, scraped by a real Prometheus.

    make check-live          (Prometheus and redis_exporter: on the path, or fetched as Debian's packages)

The configuration is docker/prometheus/prometheus.yml with other addresses and shorter intervals. Some trouble is made too, so
that no panel may stay empty: unknown adapters, and a store that holds still for longer than REDIS_TIMEOUT.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx
import yaml

from service.children import engine_child, store_child
from service.launcher import Child, ChildSpec, Supervisor
from service.settings import Settings
from tests.chaos.faults import group_of
from tools.check_deploy.common import ROOT, Skip, debian_program
from tools.cluster.parts import ROLES, answers, quiet_port, replica

SCRAPE_S = 5
# The rules of the objectives are evaluated every 30 s, and the first of them over a rate.
LOAD_S = 90.0
STILL_S = 4.0
REQUEST_S = 60.0
TEXT = "The lighthouse of Gull Rock is kept by Ida Marsh, visit {number}. The lamp burns colza oil. "


@asynccontextmanager
async def scraped(folder: Path) -> AsyncIterator[tuple[str, str, Child]]:
    """The service's address, Prometheus's, and the store."""
    settings = Settings(max_model_len=1024, kv_cache_gib=0.25, _env_file=None)
    start_s = settings.engine_start_timeout.total_seconds()
    async with AsyncExitStack() as stack:
        log = stack.enter_context((folder / "children.log").open("a"))
        supervisor = await stack.enter_async_context(Supervisor(lambda line: print(line, file=log, flush=True)))
        store_spec, redis_url = store_child(folder / "data")
        engine_spec, engine_url = await asyncio.to_thread(engine_child, settings, redis_url, quiet_port())
        cache = {"GENADAPTER_ADAPTER_CACHE": str(folder / "cache")}
        engine_spec = replace(engine_spec, environment={**engine_spec.environment, **cache})
        service_spec, url = replica("service", ",".join(ROLES), redis_url, engine_url)
        exporter_spec, exporter_url = _exporter(redis_url)
        targets = {"genadapter": url, "genadapter-engine": engine_url, "genadapter-redis": exporter_url}
        prometheus_spec, prometheus_url = _prometheus(folder, targets)
        store = supervisor.start(store_spec)
        await store.wait_ready(start_s)
        for spec in (engine_spec, service_spec, exporter_spec, prometheus_spec):
            await supervisor.start(spec).wait_ready(start_s)
            print(f"ready: {spec.name}", flush=True)
        yield url, prometheus_url, store


def _exporter(redis_url: str) -> tuple[ChildSpec, str]:
    program = debian_program("prometheus-redis-exporter", "prometheus-redis-exporter")
    address = f"127.0.0.1:{quiet_port()}"
    url = f"http://{address}"
    command = [str(program), "-redis.addr", redis_url, "-web.listen-address", address]
    return ChildSpec("redis-exporter", command, dict(os.environ), lambda: answers(f"{url}/health")), url


def _prometheus(folder: Path, targets: dict[str, str]) -> tuple[ChildSpec, str]:
    program = debian_program("prometheus", "prometheus")
    address = f"127.0.0.1:{quiet_port()}"
    url = f"http://{address}"
    configuration = yaml.safe_load((ROOT / "docker/prometheus/prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
    configuration["rule_files"] = [str(ROOT / "docker/prometheus/rules.yml")]
    for job in configuration["scrape_configs"]:
        target = targets.get(job["job_name"], url)
        job["static_configs"] = [{"targets": [target.removeprefix("http://")]}]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    command = [str(program), f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/prometheus"]
    command.append(f"--web.listen-address={address}")
    return ChildSpec("prometheus", command, dict(os.environ), lambda: answers(f"{url}/-/ready")), url


async def use_everything(client: httpx.AsyncClient, number: int) -> None:
    """One round of what users do, right and wrong."""
    text = TEXT.format(number=number)
    made = await client.post("/contextualize", json={"text": text, "keep_state": True})
    name = made.json().get("id", "ga-" + 32 * "0")
    await client.post("/contextualize", json={"text": text})
    await client.post("/contextualize", files={"file": ("log.md", f"# Visit {number}\n\n{text}")})
    await client.post(f"/adapters/{name}/append", json={"text": "Osric Vane came in spring."})
    question = {"prompt": "The lighthouse is kept by", "max_tokens": 8}
    for adapter in (name, None, "ga-" + 32 * "0"):
        await client.post("/generate", json=question | {"adapter_id": adapter})
    await client.post("/generate", json=question | {"adapter_id": name, "stream": True})
    messages = [{"role": "user", "content": "Who keeps the lighthouse?"}]
    await client.post("/v1/chat/completions", json={"model": name, "messages": messages, "max_tokens": 8})
    await client.get("/adapters")
    await client.delete(f"/adapters/{name}")


async def load(url: str) -> None:
    number = 0
    async with httpx.AsyncClient(base_url=url, timeout=REQUEST_S, trust_env=False) as client:
        while True:
            with suppress(httpx.TransportError):
                await use_everything(client, number)
            number += 1


async def hold_still(store: Child) -> None:
    os.killpg(group_of(store), signal.SIGSTOP)
    await asyncio.sleep(STILL_S)
    os.killpg(group_of(store), signal.SIGCONT)


async def run() -> int:
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asyncio.current_task().cancel)  # type: ignore[union-attr]
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="genadapter-live-")))
        url, prometheus_url, store = await stack.enter_async_context(scraped(folder))
        begin = time.monotonic()
        users = asyncio.create_task(load(url))
        stack.callback(users.cancel)
        await asyncio.sleep(LOAD_S / 2)
        await hold_still(store)
        await asyncio.sleep(LOAD_S / 2)
        print(f"{time.monotonic() - begin:.0f} s of load; asking {prometheus_url}", flush=True)
        check = ("tools/check_deploy.sh", "--live", prometheus_url, "--all")
        process = await asyncio.create_subprocess_exec(*check, cwd=ROOT)
        return await process.wait()


def main() -> int:
    try:
        return asyncio.run(run())
    except Skip as missing:
        raise SystemExit(f"check-live: {missing}") from None
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130


if __name__ == "__main__":
    sys.exit(main())
