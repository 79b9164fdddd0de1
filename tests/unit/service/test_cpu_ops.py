"""vLLM's compiled kernels where the plugin prefers them: they compute the same, and vLLM takes them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch.nn.functional import linear

from service.vllm_plugin.threads import ENGINE_THREADS

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("every_core")]
EPSILON = 1e-5
# Of bfloat16's 8 bits, in which a norm rounds once or twice.
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 1e-5}, torch.bfloat16: {"rtol": 0.016, "atol": 1e-6}}


@pytest.fixture(scope="module")
def ops():
    pytest.importorskip("vllm")
    from vllm import ir

    from service.vllm_plugin import cpu_ops, platform

    if platform.PROVIDER not in ir.ops.rms_norm.impls:
        import vllm.kernels

        cpu_ops.register_norms(vllm.kernels)
    return ir.ops


@pytest.mark.parametrize("dtype", CLOSE)
def test_norms_are_those_of_vllm(ops, dtype):
    """And no others are taken: on processors without an instruction for it the kernels cut bfloat16 off instead of rounding."""
    random = torch.Generator().manual_seed(0)
    x, residual, ones = torch.randn(33, 64, generator=random), torch.randn(33, 64, generator=random), torch.ones(64)
    rounded = x.bfloat16() + residual.bfloat16()
    fused = ops.fused_add_rms_norm.impls["genadapter"].impl_fn
    rounds = bool((fused(x.bfloat16(), residual.bfloat16(), ones.bfloat16(), EPSILON)[1] == rounded).all())
    for rows, width in ((1, 576), (33, 576), (5, 8), (3, 1000)):
        x, residual, weight = (
            torch.randn(*shape, generator=random).to(dtype) for shape in ((rows, width), (rows, width), (width,))
        )
        for op, inputs in ((ops.rms_norm, (x,)), (ops.fused_add_rms_norm, (x, residual))):
            ours, native = op.impls["genadapter"], op.impls["native"]
            assert ours.supported
            assert ours.supports_args(*inputs, weight, EPSILON) == (dtype == torch.float32 or rounds)
            expected = native.impl_fn(*(tensor.clone() for tensor in inputs), weight, EPSILON)
            torch.testing.assert_close(
                ours.impl_fn(*(tensor.clone() for tensor in inputs), weight, EPSILON), expected, **CLOSE[dtype]
            )


def test_norms_leave_what_they_cannot_take(ops):
    supports = ops.rms_norm.impls["genadapter"].supports_args
    x, weight = torch.randn(4, 16), torch.randn(16)
    assert supports(x, weight, EPSILON)
    assert not supports(x, None, EPSILON)
    assert not supports(x, weight, EPSILON, 8)
    assert not supports(x, weight.bfloat16(), EPSILON)
    assert not supports(torch.randn(4, 12), torch.randn(12), EPSILON), "no multiple of what is taken at a time"
    assert not supports(torch.randn(16, 4).mT, weight, EPSILON), "rows that do not lie side by side"
    assert not ops.fused_add_rms_norm.impls["genadapter"].supports_args(x, torch.randn(16, 4).mT, weight, EPSILON)


@pytest.fixture
def layers(monkeypatch):
    """vLLM's choice of a product, as the plugin changes it."""
    pytest.importorskip("vllm")
    from vllm.model_executor.layers import utils
    from vllm.platforms import current_platform

    from service.vllm_plugin import cpu_ops

    current_platform.import_kernels()
    changed = [(utils, "dispatch_cpu_unquantized_gemm"), (utils, "check_cpu_sgl_kernel")]
    for holder, name in [*changed, (utils.ops, "weight_packed_linear_cpu")]:
        monkeypatch.setattr(holder, name, getattr(holder, name))  # put back afterwards
    cpu_ops.choose_products(utils)
    return utils


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "inputs"), [(96, 64), (576, 1536), (100, 60), (64, 8192)])
def test_products_with_packed_weights(layers, monkeypatch, width, inputs, bias):
    """Whatever the weights are packed for on this machine."""
    packed = []
    monkeypatch.setattr(layers.ops, "weight_packed_linear_cpu", _noting(packed, layers.ops.weight_packed_linear_cpu))
    random = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(inputs, width, bias=bias, dtype=torch.bfloat16)
    layer.weight.data = torch.randn(width, inputs, generator=random).bfloat16()
    weight, added = layer.weight.data.float(), layer.bias.data.float() if bias else None
    layers.dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    for rows in (0, 1, 4, 5, 33, 257):
        x = torch.randn(rows, inputs, generator=random).bfloat16()
        product = layer.cpu_linear(x, layer.weight, layer.bias)
        assert product.dtype == torch.bfloat16
        expected = linear(x.float(), weight, added)
        torch.testing.assert_close(product.float(), expected, rtol=0.01, atol=0.01 * inputs**0.5)
    if not torch.cpu._is_amx_tile_supported():
        fits = width % 32 == 0 and inputs % 32 == 0 and inputs <= 4096
        assert bool(packed) == (fits and not bias and torch.cpu._is_avx512_bf16_supported())
        assert not bias or layer.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(("width", "inputs"), [(96, 64), (576, 1536), (100, 60), (1, 7)])
def test_products_of_few_rows_in_float32_read_bfloat16(layers, width, inputs, bias):
    random = torch.Generator().manual_seed(1)
    layer = torch.nn.Linear(inputs, width, bias=bias)
    layer.weight.data = torch.randn(width, inputs, generator=random).bfloat16().float()
    weight, added = layer.weight.data.clone(), layer.bias.data.clone() if bias else None
    layers.dispatch_cpu_unquantized_gemm(layer, remove_weight=True)
    few = []
    layer.cpu_linear = replace(layer.cpu_linear, few=_noting(few, layer.cpu_linear.few))
    for rows in (0, 1, 3, 4, 12, 13, 33):
        x = torch.randn(rows, inputs, generator=random)
        product = layer.cpu_linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(product, linear(x, weight, added), rtol=1e-4, atol=1e-4)
    x = torch.randn(4, 2 * inputs, generator=random)[:, :inputs]  # there is something between its rows
    torch.testing.assert_close(
        layer.cpu_linear(x, layer.weight, layer.bias), linear(x, weight, added), rtol=1e-4, atol=1e-4
    )
    assert len(few) == 5


def test_weights_that_bfloat16_would_round_are_left_to_vllm(layers):
    layer = torch.nn.Linear(64, 32, bias=False)
    layer.weight.data.zero_()[3, 5] = 1 + 2**-20
    layers.dispatch_cpu_unquantized_gemm(layer, remove_weight=False)
    x = torch.eye(64)[5:6]
    assert layer.cpu_linear(x, layer.weight, None)[0, 3] == 1 + 2**-20


def _noting(calls, function):
    def call(*arguments):
        calls.append(arguments)
        return function(*arguments)

    return call


CONFIGURED = """
import os
from vllm.engine.arg_utils import EngineArgs
from vllm.config import set_current_vllm_config
from vllm.platforms import current_platform

config = EngineArgs(model=%r, enable_lora=True, enforce_eager=True).create_engine_config()
priority, compilation = config.kernel_config.ir_op_priority, config.compilation_config
with set_current_vllm_config(config):
    opaque = current_platform.opaque_attention_op()
method = os.environ["VLLM_WORKER_MULTIPROC_METHOD"]
print("CONFIGURED", priority.rms_norm, priority.fused_add_rms_norm, compilation.custom_ops, opaque, method)
"""


def test_vllm_takes_them():
    """As the engine is started: its configuration names them, so that nothing here is registered for nobody."""
    pytest.importorskip("vllm")
    from generator.base_model import resolve_base_model

    program = CONFIGURED % str(resolve_base_model("smollm2-135m-instruct"))
    environment = {**os.environ, ENGINE_THREADS: "1"}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, env=environment)
    ours = ["genadapter", "native"]
    assert f"CONFIGURED {ours} {ours} ['all'] False fork" in done.stdout, done.stdout + done.stderr[-2000:]
