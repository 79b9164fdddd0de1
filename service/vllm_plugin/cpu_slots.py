"""The adapters of a step in neighbouring slots, on CPUs.

vLLM puts an adapter into whatever slot is free. The batched product (`cpu_lora`) reads every slot between the first and the
last that a step uses, and what it reads is what it costs: 32 adapters of rank 128 in eight layers of 576 x 1536 take 28 ms a
step scattered over 64 slots, and 15 side by side.
Adapters that stay together for some steps are therefore moved together, by swapping slots.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from vllm.platforms import current_platform

from service.vllm_plugin.cpu_lora import holds_slots
from service.vllm_plugin.hooks import known_release

# Steps with the same adapters before any of them is moved: a swap takes 3 ms with those adapters, and the 16 or so for 32 of
# them what they save in four steps.
STEADY_STEPS = 4
# Slots read in vain for each one used, at most.
MAX_WASTE = 0.25


@dataclass
class Company:
    """The adapters of the latest steps of a LoRA manager."""

    ids: frozenset[int] = frozenset()
    steps: int = 0

    def stays(self, ids: frozenset[int]) -> bool:
        """Count a step with these; true once, when they have been together for `STEADY_STEPS`."""
        self.steps = self.steps + 1 if ids == self.ids else 1
        self.ids = ids
        return self.steps == STEADY_STEPS


def swaps(used: Collection[int], total: int) -> list[tuple[int, int]]:
    """Pairs of slots (used, unused) to swap for the used ones to be neighbours; none where few lie between them.

    used: distinct slots below `total`. As few pairs as can be.
    """
    slots = sorted(used)
    count = len(slots)
    if count < 2 or slots[-1] + 1 - slots[0] <= (1 + MAX_WASTE) * count:
        return []
    starts = [min(slot, total - count) for slot in slots]
    start = max(starts, key=lambda first: sum(first <= slot < first + count for slot in slots))
    window = range(start, start + count)
    taken = set(slots)
    return list(zip((s for s in slots if s not in window), (s for s in window if s not in taken), strict=True))


def keep_together(model_manager: ModuleType) -> None:
    """`model_manager`: the module vllm.lora.model_manager."""
    if not current_platform.is_cpu() or not known_release("moving adapters of one step into neighbouring slots"):
        return
    manager_class = model_manager.LoRAModelManager
    set_mapping = manager_class.set_adapter_mapping

    def set_adapter_mapping(self: Any, mapping: Any) -> None:
        ids = frozenset(mapping.prompt_mapping) - {0}  # 0: no adapter
        if not hasattr(self, "_genadapter_company"):
            self._genadapter_company = Company()
        if self._genadapter_company.stays(ids):
            _gather(self, ids)
        set_mapping(self, mapping)  # sees that the slots have changed

    manager_class.set_adapter_mapping = set_adapter_mapping


def _gather(manager: Any, ids: frozenset[int]) -> None:
    layout = manager.lora_index_to_id
    used = [slot for slot, adapter in enumerate(layout) if adapter in ids]
    modules = {id(module): module for module in manager.modules.values()}.values()  # one may have several names
    if not all(holds_slots(module) for module in modules):
        return
    for one, other in swaps(used, len(layout)):
        for module in modules:
            _swap(module, one, other)
        layout[one], layout[other] = layout[other], layout[one]


def _swap(module: Any, one: int, other: int) -> None:
    if module.punica_wrapper.swap_slots(module.lora_a_stacked, one, other):
        for stacked in (*module.lora_a_stacked, *module.lora_b_stacked):
            stacked[[one, other]] = stacked[[other, one]]
