"""Adapter id -> LoRA, on first use: what vLLM asks when it meets a name that it does not know."""

from __future__ import annotations

from types import ModuleType

from vllm.lora.request import LoRARequest
from vllm.lora.resolver import LoRAResolver

from service.ids import is_adapter_id
from service.vllm_plugin import RESOLVER_NAME
from service.vllm_plugin.frontend import frontend


class AdapterResolver(LoRAResolver):
    async def resolve_lora(self, base_model_name: str, lora_name: str) -> LoRARequest | None:
        """None (404) for what is no adapter id or no adapter; errors with a status of their own otherwise (`frontend`)."""
        if not is_adapter_id(lora_name):
            return None
        folder = await frontend().provide(lora_name, base_model_name)
        # vLLM replaces the integer id by one of its own.
        return None if folder is None else LoRARequest(lora_name=lora_name, lora_int_id=1, lora_path=str(folder))


def install(resolver_module: ModuleType) -> None:
    """`resolver_module`: the module vllm.lora.resolver."""
    resolver_module.LoRAResolverRegistry.register_resolver(RESOLVER_NAME, AdapterResolver())
