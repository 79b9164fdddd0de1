"""The grouped LoRA product of the CPU against the sum written token by token."""

from __future__ import annotations

import pytest
import torch

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("every_core")]

SLOTS, RANK, D_IN, SLICES = 4, 8, 24, (16, 12)


@pytest.fixture(scope="module")
def wrapper_class():
    pytest.importorskip("vllm")
    from service.vllm_plugin.cpu_lora import GroupedPunicaWrapperCPU

    return GroupedPunicaWrapperCPU


@pytest.fixture(params=["compiled", "torch's own"])
def with_and_without_kernel(request, monkeypatch):
    from service.vllm_plugin import cpu_lora

    assert cpu_lora.kernel() is not None, "numba is one of vLLM's dependencies"
    if request.param != "compiled":
        monkeypatch.setattr(cpu_lora, "kernel", lambda *_: None)


def stacked(random: torch.Generator) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    a = tuple(torch.randn(SLOTS, 1, RANK, D_IN, generator=random) for _ in SLICES)
    b = tuple(torch.randn(SLOTS, 1, width, RANK, generator=random) for width in SLICES)
    return a, b


def token_by_token(y, x, a, b, indices, scale):
    result, offset = y.clone(), 0
    for a_slice, b_slice, width in zip(a, b, SLICES, strict=True):
        for row, slot in enumerate(indices.tolist()):
            if slot >= 0:
                result[row, offset : offset + width] += scale * (b_slice[slot, 0] @ (a_slice[slot, 0] @ x[row]))
        offset += width
    return result


def make(wrapper_class, indices):
    from vllm.lora.layers import LoRAMapping

    wrapper = wrapper_class(256, max_batches=64, device="cpu")
    ids = tuple(index + 1 for index in indices.tolist())  # 0: without an adapter
    mapping = LoRAMapping(index_mapping=ids, prompt_mapping=ids, is_prefill=True)
    wrapper.update_metadata(mapping, list(range(1, SLOTS + 1)), SLOTS + 1, 1000)
    return wrapper


@pytest.mark.usefixtures("with_and_without_kernel")
@pytest.mark.parametrize("seed", range(12))
def test_mixed_rows_agree_with_the_sum_token_by_token(wrapper_class, seed):
    random = torch.Generator().manual_seed(seed)
    rows = int(torch.randint(1, 60, (), generator=random))
    indices = torch.randint(-1, SLOTS, (rows,), generator=random)
    if seed % 2:  # as in a prefill: the rows of a request lie side by side
        indices = indices.sort().values
    a, b = stacked(random)
    x = torch.randn(rows, D_IN, generator=random)
    y = torch.randn(rows, sum(SLICES), generator=random)
    expected = token_by_token(y, x, a, b, indices, 0.5)
    make(wrapper_class, indices).add_lora_linear(y, x, a, b, 0.5, SLICES)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
    without = indices < 0
    assert torch.equal(y[without], expected[without])


@pytest.mark.usefixtures("with_and_without_kernel")
def test_smaller_ranks_and_layers_that_an_adapter_does_not_touch(wrapper_class):
    random = torch.Generator().manual_seed(9)
    indices = torch.tensor([0, 1, -1, 2, 1, 0])
    a, b = stacked(random)
    a[0][0, 0, 3:] = 0  # slot 0: rank 3 in the first slice
    b[1][1] = 0  # slot 1: nothing in the second slice
    for weights in (*a, *b):
        weights[2] = 0  # slot 2: nothing at all
    x = torch.randn(6, D_IN, generator=random)
    y = torch.randn(6, sum(SLICES), generator=random)
    expected = token_by_token(y, x, a, b, indices, 1.0)
    wrapper = make(wrapper_class, indices)
    wrapper.note_slot(a, 0, (3, RANK))
    wrapper.note_slot(a, 1, (RANK, 0))
    wrapper.note_slot(a, 2, (0, 0))
    wrapper.add_lora_linear(y, x, a, b, 1.0, SLICES)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)


def test_bfloat16_is_summed_in_float32_and_rounded_once(wrapper_class):
    random = torch.Generator().manual_seed(4)
    indices = torch.tensor([0, 3, 3, 3, 3, 3, -1, 0])  # four rows of a slot are multiplied together, and one is left
    a, b = ([weights.bfloat16() for weights in part] for part in stacked(random))
    x = torch.randn(8, D_IN, generator=random).bfloat16()
    y = torch.randn(8, sum(SLICES), generator=random).bfloat16()
    y[0, 0], y[1, 1] = torch.inf, torch.nan
    exact = token_by_token(y.float(), x.float(), [w.float() for w in a], [w.float() for w in b], indices, 0.5)
    make(wrapper_class, indices).add_lora_linear(y, x, tuple(a), tuple(b), 0.5, SLICES)
    torch.testing.assert_close(y, exact.bfloat16(), rtol=0.008, atol=1e-6, equal_nan=True)  # one unit in the last place
    assert (y == exact.bfloat16()).float().mean() > 0.95


def test_a_step_with_fewer_rows_than_announced_is_refused(wrapper_class):
    random = torch.Generator().manual_seed(5)
    a, b = stacked(random)
    y = torch.zeros(3, sum(SLICES))
    wrapper = make(wrapper_class, torch.tensor([0, -1, -1, 1, -1]))
    with pytest.raises(IndexError, match="3 rows, of which number 4 has an adapter"):
        wrapper.add_lora_linear(y, torch.randn(3, D_IN, generator=random), a, b, 1.0, SLICES)
    wrapper.add_lora_linear(torch.zeros(4, sum(SLICES)), torch.randn(4, D_IN, generator=random), a, b, 1.0, SLICES)


def test_logits_follow_the_sampled_rows(wrapper_class):
    random = torch.Generator().manual_seed(3)
    indices = torch.tensor([2, -1, 0])
    a, b = torch.randn(SLOTS, 1, RANK, D_IN, generator=random), torch.randn(SLOTS, 1, 50, RANK, generator=random)
    x, y = torch.randn(3, D_IN, generator=random), torch.randn(3, 50, generator=random)
    expected = y.clone()
    for row, slot in ((0, 2), (2, 0)):
        expected[row] += b[slot, 0] @ (a[slot, 0] @ x[row])
    make(wrapper_class, indices).add_lora_logits(y, x, a, b, 1.0)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-4)
