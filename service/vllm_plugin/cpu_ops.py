"""Compiled kernels for work that vLLM leaves to slower ones on a CPU (0.32): its own, and one of ours.

RMSNorm is registered for GPUs alone, so that a CPU does it in eight of torch's small operations, twice in each layer. And the
products with weights laid out for AVX-512 are taken only where there is AMX, though without it, too, they are a fifth quicker
than oneDNN's for a single row: a step of one answer.

In float32 such a step waits for memory to give the weights. Most checkpoints are in bfloat16: read as that, they are half.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from vllm import ir
from vllm.platforms import current_platform

from service.vllm_plugin.compiled import kernel
from service.vllm_plugin.hooks import known_release
from service.vllm_plugin.platform import NORMS, PROVIDER

# Entries that the norms' kernels take at a time: no row may end in between.
_NORM_VECTOR = 8
# Weights are laid out in tiles of so many; of wider inputs oneDNN's products are the quicker ones from eight rows on.
_TILE = 32
_WIDEST_INPUT = 4096
# Up to so many rows our product with weights in bfloat16 is quicker than oneDNN's with the same in float32 (two cores with AVX2:
# 12 against 28 ms for all products of a step with one row, 16 / 34 with four, 28 / 49 with eight, 39 / 48 with twelve).
_FEW_ROWS = 12


def register_norms(_kernels: ModuleType) -> None:
    """Called with the module vllm.kernels, which registers vLLM's own implementations."""
    if not current_platform.is_cpu() or not known_release("RMSNorm, many small operations on a CPU"):
        return
    if all(hasattr(torch.ops._C, name) for name in NORMS):
        ir.ops.rms_norm.register_impl(PROVIDER, supports_args=_fits)(rms_norm)
        ir.ops.fused_add_rms_norm.register_impl(PROVIDER, supports_args=_both_fit, inplace=True)(fused_add_rms_norm)


def rms_norm(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> Tensor:
    """x: ... x d, normalized over d. Arguments are vLLM's (vllm.ir.ops)."""
    output = torch.empty_like(x)
    torch.ops._C.rms_norm(output, x, weight, epsilon)
    return output


def fused_add_rms_norm(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> tuple[Tensor, Tensor]:
    """The norm of x + x_residual (... x d), and that sum: in place of the two."""
    torch.ops._C.fused_add_rms_norm(x, x_residual, weight, epsilon)
    return x, x_residual


@cache
def _rounds_bfloat16() -> bool:
    """Where a processor has no instruction for it, the kernels do not round to bfloat16 but cut off: always towards zero, which
    adds up over the layers (with AVX2 logprobs were 3.5 % off, transformers' in bfloat16 0.6 %)."""
    sums = torch.full((1, _NORM_VECTOR), 7 / 1024, dtype=torch.bfloat16)
    weight = torch.ones(_NORM_VECTOR, dtype=torch.bfloat16)
    torch.ops._C.fused_add_rms_norm(torch.ones_like(sums), sums, weight, 1e-5)
    return bool((sums == 1 + 8 / 1024).all())


def _fits(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    plain = variance_size is None and weight is not None and weight.dtype == x.dtype
    plain = plain and (x.dtype != torch.bfloat16 or _rounds_bfloat16())
    return plain and x.shape[-1] % _NORM_VECTOR == 0 and x.is_contiguous()


def _both_fit(
    x: Tensor, x_residual: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None
) -> bool:
    return x_residual.dtype == x.dtype and x_residual.is_contiguous() and _fits(x, weight, epsilon, variance_size)


def choose_products(layers: Any) -> None:
    """`layers`: the module vllm.model_executor.layers.utils, which chooses the product of each layer when it is loaded."""
    if known_release("products of few rows on CPUs"):
        _read_half(layers)
        _pack_weights(layers)


def _read_half(layers: Any) -> None:
    """Of a layer in float32 whose weights are bfloat16's, a copy in bfloat16 is kept for products of few rows."""
    choose: Callable[[Any, bool], None] = layers.dispatch_cpu_unquantized_gemm

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        halved = _in_half(layer.weight)
        choose(layer, remove_weight)
        if halved is not None and (compiled := kernel()) is not None:
            layer.cpu_linear = _FewRows(compiled.product(), compiled.seen(halved), layer.cpu_linear)

    layers.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm


def _in_half(weight: Tensor) -> Tensor | None:
    """The same numbers in bfloat16, if they are."""
    if weight.dtype != torch.float32 or weight.ndim != 2 or weight.is_meta:
        return None
    halved = weight.detach().bfloat16()
    return halved if torch.equal(halved.float(), weight) else None


@dataclass(frozen=True)
class _FewRows:
    """A layer's product: `few` for few rows, `many` for more."""

    few: Callable[[Any, Any, Any], None]
    weights: Any
    many: Callable[[Tensor, Tensor, Tensor | None], Tensor]

    def __call__(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        width, inputs = self.weights.shape
        if x.numel() > _FEW_ROWS * inputs or x.dtype != torch.float32 or not x.is_contiguous():
            return self.many(x, weight, bias)
        y = x.new_empty(*x.shape[:-1], width)
        self.few(y.view(-1, width).numpy(), x.view(-1, inputs).numpy(), self.weights)
        return y if bias is None else y.add_(bias)


def _pack_weights(layers: Any) -> None:
    """A layer with a bias is left to vLLM: with packed weights its bias becomes float32, which not every model expects."""
    choose: Callable[[Any, bool], None] = layers.dispatch_cpu_unquantized_gemm
    wanted: Callable[[int, int, Any], bool] = layers.check_cpu_sgl_kernel
    product: Callable[[Tensor, Tensor, int, Any], Tensor] = layers.ops.weight_packed_linear_cpu
    has_instructions = torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()
    without_bias = False  # the layer that is looked at

    def dispatch_cpu_unquantized_gemm(layer: Any, remove_weight: bool) -> None:
        nonlocal without_bias
        without_bias = getattr(layer, "bias", None) is None
        try:
            choose(layer, remove_weight)
        finally:
            without_bias = False

    def check_cpu_sgl_kernel(n: int, k: int, dtype: Any) -> bool:
        fits = n % _TILE == 0 and k % _TILE == 0 and k <= _WIDEST_INPUT and dtype == torch.bfloat16
        return wanted(n, k, dtype) or (has_instructions and without_bias and fits)

    def weight_packed_linear_cpu(x: Tensor, packed_weight: Tensor, n: int, bias: Any) -> Tensor:
        if not x.numel():  # the kernel divides by the number of rows
            return x.new_empty((*x.shape[:-1], n))
        return product(x, packed_weight, n, bias)

    layers.dispatch_cpu_unquantized_gemm = dispatch_cpu_unquantized_gemm
    layers.check_cpu_sgl_kernel = check_cpu_sgl_kernel
    layers.ops.weight_packed_linear_cpu = weight_packed_linear_cpu
