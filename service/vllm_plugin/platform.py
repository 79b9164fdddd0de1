"""What vLLM asks its CPU platform for. Apart from the rest, because a platform is chosen long before torch may be imported."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from service.vllm_plugin.hooks import known_release

WRAPPER = "service.vllm_plugin.cpu_lora.GroupedPunicaWrapperCPU"
# `cpu_ops`' implementations among vLLM's of these operations.
PROVIDER = "genadapter"
NORMS = ("rms_norm", "fused_add_rms_norm")


def use_grouped_products(platform: ModuleType) -> None:
    """`platform`: the module vllm.platforms.cpu."""
    if known_release(
        "the CPU's LoRA product, wrong for batches that mix requests with and without an adapter before 0.33"
    ):
        platform.CpuPlatform.get_punica_wrapper = classmethod(lambda cls: WRAPPER)


def prefer_norms(platform: ModuleType) -> None:
    """`platform`: the module vllm.platforms.cpu. What a user names (`--ir-op-priority`) comes first."""
    if not known_release("RMSNorm, many small operations on a CPU"):
        return
    cpu = platform.CpuPlatform
    default: Callable[[Any], Any] = cpu.get_default_ir_op_priority

    def get_default_ir_op_priority(cls: Any, vllm_config: Any) -> Any:
        from vllm import ir

        priority = default(vllm_config)
        cls.import_ir_kernels()
        for name in NORMS:
            if PROVIDER in getattr(ir.ops, name).impls:
                setattr(priority, name, [PROVIDER, *getattr(priority, name)])
        return priority

    cpu.get_default_ir_op_priority = classmethod(get_default_ir_op_priority)


def call_attention_directly(platform: ModuleType) -> None:
    """`platform`: the module vllm.platforms.cpu. Where nothing is compiled attention need not be hidden from a compiler: twice a
    layer the way through torch's registry of operations, a twentieth of a step of one answer."""
    if not known_release("attention called through torch's registry"):
        return
    cpu = platform.CpuPlatform
    default: Callable[[], bool] = cpu.opaque_attention_op

    def opaque_attention_op(_cls: Any) -> bool:
        from vllm.config import CompilationMode, get_current_vllm_config_or_none

        config = get_current_vllm_config_or_none()
        return default() and (config is None or config.compilation_config.mode != CompilationMode.NONE)

    cpu.opaque_attention_op = classmethod(opaque_attention_op)
