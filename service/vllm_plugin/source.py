"""Where an adapter's weights come from: Redis and the generator's expansion."""

from __future__ import annotations

import asyncio
import os
import shutil
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from service.errors import AdapterDamaged, AdapterMismatch, AdapterNotFound
from service.store import Store
from service.vllm_plugin.files import write_folder
from service.vllm_plugin.hooks import logger

if TYPE_CHECKING:
    import torch

    from generator.checkpoint import Expander, Mapper

# The engine waits for nobody: inside a step every request stands still meanwhile.
STORE_TIMEOUT_S = 2.0
# Connections of one engine process; resolving is bounded below that.
STORE_CONNECTIONS = 8


class AdapterSource:
    """Brings adapters from the store into LoRA folders. `expander` is loaded on first use and kept."""

    def __init__(self, redis_url: str, checkpoint: str) -> None:
        self._redis_url = redis_url
        self._checkpoint = checkpoint

    @classmethod
    def from_environment(cls) -> AdapterSource:
        return cls(os.environ["GENADAPTER_REDIS_URL"], os.environ["GENADAPTER_GENERATOR"])

    async def open_store(self) -> Store:
        return await Store.open(self._redis_url, timeout_s=STORE_TIMEOUT_S, connections=STORE_CONNECTIONS)

    @cached_property
    def expander(self) -> Expander:
        from generator.checkpoint import load_expander

        return load_expander(self._checkpoint)

    def expand(self, payload: bytes, parent: Path, dtype: torch.dtype | None = None, each: Mapper = map) -> Path:
        """A sealed LoRA folder below `parent`, in float32 or in the engine's `dtype`, to which it would round it anyway: half
        the bytes to write, to check and to read again. `each` maps over the targets. Raises AdapterMismatch or AdapterDamaged."""
        from generator.adapter import DamagedAdapter, expand, read_header

        try:
            header = read_header(payload)
            if (
                header.get("generator") != self.expander.fingerprint
                or header.get("base_model") != self.expander.base_fingerprint
            ):
                raise AdapterMismatch
            lora = expand(payload, self.expander, trim=True, each=each)
        except DamagedAdapter as error:
            raise AdapterDamaged(str(error)) from error
        if dtype is not None:
            lora = lora.to(dtype)
        return write_folder(parent, lambda folder: lora.save_peft(folder, self.expander.config.base_model))


def restore(adapter_id: str, folder: str) -> None:
    """Make an adapter's folder again, from a thread that has no event loop (the worker, inside a step).

    Raises StoreUnavailable, AdapterNotFound, AdapterMismatch or AdapterDamaged.
    """
    source = AdapterSource.from_environment()

    async def payload() -> bytes | None:
        store = await source.open_store()
        try:
            return await store.payload(adapter_id)
        finally:
            await store.close()

    data = asyncio.run(payload())
    if data is None:
        raise AdapterNotFound
    target = Path(folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = source.expand(data, target.parent)
    shutil.rmtree(target, ignore_errors=True)
    scratch.rename(target)
    logger.warning("genadapter: the files of %s were made again", adapter_id)
