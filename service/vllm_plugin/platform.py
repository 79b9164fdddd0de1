"""What vLLM asks its CPU platform for. Apart from the rest, because a platform is chosen long before torch may be imported."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import ModuleType
from typing import Any

from service.vllm_plugin import threads
from service.vllm_plugin.hooks import known_release

WRAPPER = "service.vllm_plugin.cpu_lora.GroupedPunicaWrapperCPU"
# `cpu_ops`' implementations among vLLM's of these operations.
PROVIDER = "genadapter"
NORMS = ("rms_norm", "fused_add_rms_norm")


def change_answers(platform: ModuleType) -> None:
    """`platform`: the module vllm.platforms.cpu."""
    if not known_release(
        "the CPU's LoRA product, wrong for batches that mix requests with and without an adapter before 0.33, and the slower "
        "of its operations"
    ):
        return
    cpu = platform.CpuPlatform
    cpu.get_punica_wrapper = classmethod(lambda cls: WRAPPER)
    cpu.get_default_ir_op_priority = classmethod(_with_our_norms(cpu.get_default_ir_op_priority))
    cpu.opaque_attention_op = classmethod(_only_for_a_compiler(cpu.opaque_attention_op))
    if threads.ENGINE_THREADS in os.environ:
        cpu.check_and_update_config = classmethod(_by_forking(cpu.check_and_update_config))


def _with_our_norms(default: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    """What a user names (`--ir-op-priority`) still comes first."""

    def get_default_ir_op_priority(cls: Any, vllm_config: Any) -> Any:
        from vllm import ir

        priority = default(vllm_config)
        cls.import_ir_kernels()
        for name in NORMS:
            if PROVIDER in getattr(ir.ops, name).impls:
                setattr(priority, name, [PROVIDER, *getattr(priority, name)])
        return priority

    return get_default_ir_op_priority


def _only_for_a_compiler(default: Callable[[], bool]) -> Callable[[Any], bool]:
    """Where nothing is compiled attention need not be hidden from a compiler: twice a layer the way through torch's registry of
    operations, a fiftieth of a step of one answer."""

    def opaque_attention_op(_cls: Any) -> bool:
        from vllm.config import CompilationMode, get_current_vllm_config_or_none

        config = get_current_vllm_config_or_none()
        return default() and (config is None or config.compilation_config.mode != CompilationMode.NONE)

    return opaque_attention_op


def _by_forking(default: Callable[[Any], None]) -> Callable[[Any, Any], None]:
    """The process that computes begins with what the server has imported, seconds of a start. vLLM's own default where it is a
    library, and it has no other thread running then, unless spans are sent: that thread could hold a lock for ever in the fork.
    """

    def check_and_update_config(_cls: Any, vllm_config: Any) -> None:
        default(vllm_config)
        if vllm_config.observability_config.otlp_traces_endpoint is None:
            os.environ["VLLM_WORKER_MULTIPROC_METHOD"] = "fork"

    return check_and_update_config
