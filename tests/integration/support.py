"""A generator with random weights and adapters from random factors: real formats, strong effects, no training needed."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Coroutine
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import torch

from generator.adapter import Adapter
from generator.base_model import fingerprint_base
from generator.checkpoint import Expander, save_checkpoint
from generator.config import GeneratorConfig, TargetModule
from generator.model import GeneratorNetwork
from service.children import engine_child
from service.launcher import Child, Supervisor
from service.records import AdapterRecord, checksum
from service.settings import Settings
from service.store import Store

BASE_MODEL = "SmolLM2-135M-Instruct"
HIDDEN = 576
LAYERS = range(22, 30)
RANK = 128
TENANT = "t"
# Strong enough that an answer with the wrong adapter, or with none, is far from the right one.
ALPHA = 400.0
READY_TIMEOUT_S = 240.0


def make_checkpoint(folder: Path, base_folder: Path, size: int = 512) -> Path:
    """A generator with random A1 and B: o_proj of eight layers, rank 128; states of `size` x `size`, which decide how long
    an adapter takes to make."""
    torch.manual_seed(1)
    targets = tuple(TargetModule(f"model.layers.{i}.self_attn.o_proj", i, HIDDEN, HIDDEN) for i in LAYERS)
    config = GeneratorConfig(
        base_model=BASE_MODEL,
        hidden_size=HIDDEN,
        targets=targets,
        r1=size,
        r2=size,
        max_rank=RANK,
        alpha=ALPHA,
        base_fingerprint=fingerprint_base(base_folder),
    )
    network = GeneratorNetwork(config)
    for module in network.generators:
        torch.nn.init.normal_(module.B, std=0.5)
    save_checkpoint(network, folder)
    return folder


def random_adapter(expander: Expander, seed: int) -> Adapter:
    """Orthonormal random factors, as the generator's factorization gives."""
    random = torch.Generator().manual_seed(seed)
    config = expander.config
    shape = (len(config.targets), config.r1, config.rank)
    u = torch.randn(shape, generator=random) / config.r1**0.5
    v = torch.randn(shape, generator=random) / config.r2**0.5
    return Adapter(u=u, v=v, expander=expander, tokens=10, chunks=1)


def adapter_id(seed: int, session: str = "") -> str:
    return "ga-" + hashlib.sha256(f"{session}{seed}".encode()).hexdigest()[:32]


def record(name: str, payload: bytes, expander: Expander, ttl_s: float = 3600.0) -> AdapterRecord:
    now_s = time.time()
    return AdapterRecord(
        id=name,
        tenant=TENANT,
        base_model=BASE_MODEL,
        base_fingerprint=expander.base_fingerprint,
        generator_fingerprint=expander.fingerprint,
        strategy="concat",
        created_at=now_s,
        expires_at=now_s + ttl_s,
        tokens=10,
        chunks=1,
        rank=RANK,
        bytes=len(payload),
        sha256=checksum(payload),
    )


class LoopThread:
    """An event loop of its own, for what must outlive a single test."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, Any], timeout_s: float = 300.0) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout_s)

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@dataclass
class Engine:
    """A running vLLM server with our plugin, the store that it reads from, and the generator whose adapters it serves."""

    client: httpx.Client
    url: str
    child: Child
    loop: LoopThread
    store: Store
    expander: Expander
    cache: Path

    def publish(self, seed: int, session: str = "", ttl_s: float = 3600.0) -> str:
        """A random adapter into the store; its id."""
        name = adapter_id(seed, session)
        payload = random_adapter(self.expander, seed).to_bytes()
        self.loop.run(self.store.publish(record(name, payload, self.expander, ttl_s), payload))
        return name

    def complete(self, model: str, prompt: str, **options: Any) -> httpx.Response:
        body = {"model": model, "prompt": prompt, "max_tokens": 8, "temperature": 0, **options}
        return self.client.post("/v1/completions", json=body)

    def loaded(self) -> list[int]:
        """Integer ids of the adapters in the engine's memory."""
        answer = self.client.post("/collective_rpc", json={"method": "list_loras"})
        loaded: list[int] = answer.json()["results"][0]
        return loaded

    def names(self) -> set[str]:
        return {model["id"] for model in self.client.get("/v1/models").json()["data"]} - {BASE_MODEL}

    def files(self) -> set[str]:
        return {path.name for path in self.cache.glob("engine-*/ga-*")}


def start_engine(
    loop: LoopThread,
    supervisor: Supervisor,
    store_url: str,
    checkpoint: Path,
    cache: Path,
    arguments: str,
    name: str = "engine",
) -> tuple[Child, str]:
    """An engine as `genadapter serve` starts it, with routes that let a test look inside."""
    settings = Settings(generator=checkpoint, engine_args=arguments, max_model_len=1024, max_loras=4, max_cpu_loras=8)

    async def start() -> tuple[Child, str]:
        spec, url = engine_child(settings, store_url)
        environment = {
            **spec.environment,
            "VLLM_SERVER_DEV_MODE": "1",
            "GENADAPTER_ADAPTER_CACHE": str(cache),
            "GENADAPTER_ADAPTER_CACHE_BYTES": str(
                64 << 20
            ),  # about a dozen adapters: the file cache must turn over too
            "GENADAPTER_SWEEP_SECONDS": "1",
        }
        child = supervisor.start(replace(spec, name=name, environment=environment))
        await child.wait_ready(READY_TIMEOUT_S, max_exits=1)
        return child, url

    result: tuple[Child, str] = loop.run(start(), READY_TIMEOUT_S + 30)
    return result
