"""Adapters that stay together are moved into neighbouring slots, and stay what they are."""

from __future__ import annotations

import random
from types import ModuleType, SimpleNamespace

import pytest
import torch

pytestmark = pytest.mark.filterwarnings("default")

SLOTS, RANK, D_IN, D_OUT = 16, 4, 12, 10


@pytest.fixture(scope="module")
def cpu_slots() -> ModuleType:
    pytest.importorskip("vllm")
    from service.vllm_plugin import cpu_slots

    return cpu_slots


@pytest.mark.parametrize("seed", range(20))
def test_swaps_bring_the_used_slots_together(cpu_slots: ModuleType, seed: int) -> None:
    rng = random.Random(seed)
    used = rng.sample(range(SLOTS), rng.randint(0, SLOTS))
    pairs = cpu_slots.swaps(used, SLOTS)
    places = set(used)
    for one, other in pairs:
        assert one in places, "a used slot"
        assert other not in places, "a free one"
        places = places - {one} | {other}
    assert len(places) == len(used)
    if places:
        assert max(places) + 1 - min(places) <= 1.25 * len(places) or len(places) < 2


class Manager:
    """What `keep_together` knows of vLLM's LoRA manager, with two layers of which the adapters touch one."""

    def __init__(self) -> None:
        from service.vllm_plugin.cpu_lora import GroupedPunicaWrapperCPU

        self.wrapper = GroupedPunicaWrapperCPU(64, max_batches=32, device="cpu")
        draw = torch.Generator().manual_seed(0)
        shapes = ((SLOTS, 1, RANK, D_IN), (SLOTS, 1, D_OUT, RANK))
        touched, other = (tuple((torch.randn(*shape, generator=draw),) for shape in shapes) for _ in range(2))
        layers = [
            SimpleNamespace(punica_wrapper=self.wrapper, lora_a_stacked=a, lora_b_stacked=b)
            for a, b in (touched, other)
        ]
        self.modules = {"touched": layers[0], "touched too": layers[0], "other": layers[1]}
        self.lora_index_to_id: list[int | None] = [100 + slot for slot in range(SLOTS)]
        for slot in range(SLOTS):
            self.wrapper.note_slot(touched[0], slot, (RANK,))
            self.wrapper.note_slot(other[0], slot, (0,))

    def set_adapter_mapping(self, mapping: SimpleNamespace) -> None:
        from vllm.lora.layers import LoRAMapping

        vllm_mapping = LoRAMapping(mapping.prompt_mapping, mapping.prompt_mapping, is_prefill=True)
        self.wrapper.update_metadata(vllm_mapping, self.lora_index_to_id, SLOTS + 1, 1000)


def test_adapters_that_stay_together_are_moved_and_give_the_same(cpu_slots: ModuleType) -> None:
    cpu_slots.keep_together(SimpleNamespace(LoRAModelManager=Manager))  # type: ignore[arg-type]
    manager = Manager()
    mapping = SimpleNamespace(prompt_mapping=(102, 0, 111, 102, 115, 106))
    x = torch.randn(6, D_IN, generator=torch.Generator().manual_seed(1))
    layer = manager.modules["touched"]
    results = []
    for _ in range(cpu_slots.STEADY_STEPS + 1):
        manager.set_adapter_mapping(mapping)  # type: ignore[arg-type]
        y = torch.zeros(6, D_OUT)
        manager.wrapper.add_lora_linear(y, x, layer.lora_a_stacked, layer.lora_b_stacked, 1.0, (D_OUT,))
        results.append((y, [manager.lora_index_to_id.index(i) for i in (102, 106, 111, 115)]))
    assert results[0][1] == [2, 6, 11, 15], "the first steps leave them where they are"
    after = sorted(results[-1][1])
    assert after[-1] - after[0] == 3
    assert sorted(manager.lora_index_to_id) == [100 + slot for slot in range(SLOTS)]
    for y, _ in results[1:]:
        torch.testing.assert_close(y, results[0][0])
    assert results[0][0].abs().sum() > 0
