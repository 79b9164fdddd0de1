"""What the API server's process knows of our adapters: which names vLLM keeps, which are in use, which files there are.

vLLM keeps every name that it ever resolved (and a lock for every name it ever saw), tells nobody which adapters running
requests use, and holds an unloaded adapter's weights (vllm-project/vllm#54839). The sweep needs all three, so this
watches `OpenAIServingModels` for the names and `AsyncLLM.generate` for the requests.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, asynccontextmanager
from functools import cache, partial
from http import HTTPStatus
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from generator.processor import usable_cores
from service.errors import AdapterDamaged, AdapterNotFound, GenadapterError, RequestError
from service.ids import is_adapter_id
from service.store import Store
from service.vllm_plugin.files import AdapterFiles, CacheFull, default_cache_root
from service.vllm_plugin.hooks import known_release, logger
from service.vllm_plugin.metrics import EngineMetrics
from service.vllm_plugin.source import AdapterSource
from service.vllm_plugin.sweep import Sweep

if TYPE_CHECKING:
    from generator.checkpoint import Mapper

DEFAULT_CACHE_BYTES = 1 << 30
# Expansions at once: each holds an adapter in float32, and the engine computes beside them.
MAX_EXPANSIONS = 2
# Threads that expand, a target at a time each.
MAX_THREADS = 8


@cache
def frontend() -> Frontend:
    """The only one of this process; vLLM builds its own objects without asking us for any."""
    return Frontend(
        AdapterSource.from_environment(), Path(os.environ.get("GENADAPTER_ADAPTER_CACHE") or default_cache_root())
    )


class Frontend:
    """Names, running requests and files of one API server. Lives on its event loop."""

    def __init__(self, source: AdapterSource, cache_root: Path) -> None:
        max_bytes = int(os.environ.get("GENADAPTER_ADAPTER_CACHE_BYTES", DEFAULT_CACHE_BYTES))
        self.files = AdapterFiles(cache_root, max_bytes)
        self.metrics = EngineMetrics()
        self.metrics.cache_bytes.set_function(lambda: self.files.total_bytes)
        self.metrics.cache_adapters.set_function(lambda: len(self.files.ids()))
        self.models: Any = None  # vLLM's OpenAIServingModels
        self.last_use_s: dict[str, float] = {}
        self._source = source
        self._store: Store | None = None
        self._base: asyncio.Task[bool] | None = None
        self._expansions = asyncio.Semaphore(MAX_EXPANSIONS)
        self._threads = ThreadPoolExecutor(min(MAX_THREADS, usable_cores()), initializer=_compute_alone)
        self._loading: dict[str, asyncio.Task[Path | None]] = {}
        self._sweep: asyncio.Task[None] | None = None

    def serve(self, models: Any) -> None:
        """vLLM's models are there. What the first adapter needs is read now, beside the rest of the start: the base model's
        fingerprint (seconds, for a large one), the generator's expansion."""
        self.models = models
        self._check_base(models.model_config.model)

    async def store(self) -> Store:
        if self._store is None:
            self._store = await self._source.open_store()
        return self._store

    async def provide(self, adapter_id: str, base_model: str) -> Path | None:
        """The LoRA folder of an adapter, made if need be; None when there is no such adapter.

        Concurrent callers of one id share one load. Raises vLLM's GracefulHTTPError with a status of its own.
        """
        self._start_sweep()
        self.last_use_s[adapter_id] = time.monotonic()  # pruned by the sweep
        if self.files.has(adapter_id):
            return self.files.path(adapter_id)
        task = self._loading.get(adapter_id)
        if task is None:
            task = self._loading[adapter_id] = asyncio.create_task(self._load(adapter_id, base_model))
            task.add_done_callback(lambda _: self._loading.pop(adapter_id, None))
        try:
            # A caller that goes away must not take the load from the others.
            return await asyncio.shield(task)
        except Exception as error:
            raise _with_status(error) from error

    async def _load(self, adapter_id: str, base_model: str) -> Path | None:
        outcome = "failed"
        try:
            async with self._expansions:
                with self.metrics.load_seconds.time():
                    folder = await self._bring(adapter_id, base_model)
            outcome = "unknown" if folder is None else "loaded"
            return folder
        finally:
            self.metrics.loads.labels(outcome).inc()

    async def _bring(self, adapter_id: str, base_model: str) -> Path | None:
        if not await self._is_our_base(base_model):
            raise RuntimeError(f"the checkpoint belongs to another base model than {base_model}")
        store = await self.store()
        payload = await store.payload(adapter_id)
        if payload is None:
            return None
        try:
            dtype = None if self.models is None else self.models.model_config.dtype
            return await self.files.bring(adapter_id, partial(_expand, self._source, payload, dtype, self._threads.map))
        except AdapterDamaged:
            # As the store does with bytes that are not those of the record: removed, so that it can be made anew.
            if record := await store.get(adapter_id):
                await store.delete(adapter_id, record.tenant)
            raise

    async def _is_our_base(self, base_model: str) -> bool:
        """Whether the model that vLLM serves is the checkpoint's; found out once."""
        return await asyncio.shield(self._check_base(base_model))

    def _check_base(self, base_model: str) -> asyncio.Task[bool]:
        if self._base is None or (self._base.done() and self._base.exception() is not None):
            self._base = asyncio.create_task(asyncio.to_thread(_is_base_of, self._source, base_model))
        return self._base

    @asynccontextmanager
    async def using(self, request: Any) -> AsyncIterator[None]:
        """While a request runs, its adapter's files stay, so that vLLM can load them again inside a step."""
        adapter_id = request.lora_name
        self.files.take(adapter_id)
        try:
            if await self.provide(adapter_id, self.models.model_config.model) is None:
                raise _with_status(AdapterNotFound())
            # All running requests of a name must carry one integer id: vLLM's worker tells adapters apart by name, and a
            # step with two ids of one name ends the engine. The name may have been swept and resolved again meanwhile.
            request.lora_int_id = self.models.lora_requests.setdefault(adapter_id, request).lora_int_id
            yield
        finally:
            self.files.release(adapter_id)
            self.last_use_s[adapter_id] = time.monotonic()

    def _start_sweep(self) -> None:
        if self._sweep is None or self._sweep.done():
            self._sweep = asyncio.create_task(Sweep(self).run())


def _compute_alone() -> None:
    """In this thread: beside a busy engine two threads that share a product wait for each other fifteen times longer."""
    import torch

    torch.set_num_threads(1)


def _expand(source: AdapterSource, payload: bytes, dtype: Any, each: Mapper, parent: Path) -> Path:
    _compute_alone()
    return source.expand(payload, parent, dtype, each)


def _is_base_of(source: AdapterSource, base_model: str) -> bool:
    from generator.base_model import fingerprint_base

    return not Path(base_model).is_dir() or fingerprint_base(base_model) == source.expander.base_fingerprint


def _with_status(error: Exception) -> Exception:
    """vLLM's own exception that carries a status; without it every error would look like the engine's fault."""
    from vllm.exceptions import GracefulHTTPError

    if isinstance(error, GracefulHTTPError):
        return error
    if isinstance(error, RequestError):
        return GracefulHTTPError(error.shown, HTTPStatus(error.status))
    logger.error("genadapter: an adapter cannot be loaded (%s: %s)", type(error).__name__, error)
    if isinstance(error, GenadapterError):
        return GracefulHTTPError(error.shown, HTTPStatus(error.status))
    if isinstance(error, CacheFull):
        return GracefulHTTPError(
            "Too many adapters are in use at once: try again shortly.", HTTPStatus.SERVICE_UNAVAILABLE
        )
    return GracefulHTTPError("The adapter cannot be loaded.", HTTPStatus.INTERNAL_SERVER_ERROR)


def watch_names(serving: ModuleType) -> None:
    """`serving`: the module vllm.entrypoints.openai.models.serving."""
    if not known_release("sweeping adapters that were deleted"):
        return
    models_class = serving.OpenAIServingModels
    build = models_class.__init__

    def build_and_note(self: Any, *args: Any, **kwargs: Any) -> None:
        build(self, *args, **kwargs)
        frontend().serve(self)

    models_class.__init__ = build_and_note


def watch_requests(async_llm: ModuleType) -> None:
    """`async_llm`: the module vllm.v1.engine.async_llm."""
    if not known_release("keeping the files of adapters in use"):
        return
    generate = async_llm.AsyncLLM.generate

    def watched(self: Any, *args: Any, lora_request: Any = None, **kwargs: Any) -> Any:
        outputs = generate(self, *args, lora_request=lora_request, **kwargs)
        if lora_request is None or not is_adapter_id(lora_request.lora_name):
            return outputs
        return _watch(outputs, lora_request)

    async_llm.AsyncLLM.generate = watched


async def _watch(outputs: Any, lora_request: Any) -> AsyncIterator[Any]:
    async with frontend().using(lora_request), aclosing(outputs):
        async for output in outputs:
            yield output
