"""Names the CPU's LoRA product to vLLM. Apart from it, because a platform is chosen long before torch may be imported."""

from __future__ import annotations

from types import ModuleType

from service.vllm_plugin.hooks import known_release

WRAPPER = "service.vllm_plugin.cpu_lora.GroupedPunicaWrapperCPU"


def use_grouped_products(platform: ModuleType) -> None:
    """`platform`: the module vllm.platforms.cpu."""
    if known_release(
        "the CPU's LoRA product, wrong for batches that mix requests with and without an adapter before 0.33"
    ):
        platform.CpuPlatform.get_punica_wrapper = classmethod(lambda cls: WRAPPER)
