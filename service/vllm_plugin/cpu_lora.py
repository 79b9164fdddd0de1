"""The LoRA product on CPUs: plain matrix products for the adapters present in the step, batched where they have few rows.

vLLM 0.32 gathers a copy of A and B for every token, and gathers the last slot's for tokens without an adapter (index -1),
whose results are then wrong as soon as a step mixes requests with and without one (fixed upstream in 0.33, of which there is
no CPU build). Here tokens are grouped by slot, tokens without an adapter are left alone, and a layer that the adapter in a
slot does not touch costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

# The rows of one slot: (slot, slice) where they lie side by side, (slot, row numbers) otherwise.
Group = tuple[int, slice | Tensor]
# Below this many rows a product costs its call rather than its arithmetic (25 us for 128 x 576 in bf16): such groups share one.
FEW_ROWS = 8
# A shared product reads slots that the step does not use as well; this many slots for each one used, at most: a product of
# its own costs as much as reading two (512 pairs of products 31 ms, a shared one 15 ms for 32 slots and 28 ms for 64).
MAX_SPREAD = 2


@dataclass(frozen=True)
class Batch:
    """Slots with few rows each, for one batched product over the neighbouring slots `slots.start` to `slots.stop`."""

    slots: slice
    height: int  # rows made room for in each slot
    rows: Tensor  # the rows of x and y, in order of their slot
    places: Tensor  # where they stand among the (number of slots) * height rows of the product

    @property
    def count(self) -> int:
        return int(self.slots.stop - self.slots.start)


def group_rows(indices: Tensor) -> list[Group]:
    """Rows of each slot, in order of the slots; rows with a negative index belong to none.

    indices: N slots, one a row.
    """
    runs: dict[int, list[tuple[int, int]]] = {}
    slots, counts = torch.unique_consecutive(indices, return_counts=True)
    begin = 0
    for slot, count in zip(slots.tolist(), counts.tolist(), strict=True):
        if slot >= 0:
            runs.setdefault(slot, []).append((begin, begin + count))
        begin += count
    groups: list[Group] = []
    for slot, spans in sorted(runs.items()):
        if len(spans) == 1:
            groups.append((slot, slice(*spans[0])))
        else:
            groups.append((slot, torch.cat([torch.arange(*span, device=indices.device) for span in spans])))
    return groups


def split_groups(groups: list[Group]) -> tuple[list[Group], Batch | None]:
    """Groups that are worth a product of their own, and the others together where they lie close enough."""
    sizes = [_size(rows) for _, rows in groups]
    few = [(slot, rows) for (slot, rows), size in zip(groups, sizes, strict=True) if size <= FEW_ROWS]
    if len(few) < 2:
        return groups, None
    first, height = few[0][0], max(_size(rows) for _, rows in few)
    count = few[-1][0] + 1 - first
    if count > MAX_SPREAD * len(few):
        return groups, None
    rows = torch.cat([torch.arange(r.start, r.stop) if isinstance(r, slice) else r for _, r in few])
    places = torch.cat([(slot - first) * height + torch.arange(_size(r)) for slot, r in few])
    alone = [group for group, size in zip(groups, sizes, strict=True) if size > FEW_ROWS]
    return alone, Batch(slice(first, first + count), height, rows, places)


def _size(rows: slice | Tensor) -> int:
    return int(rows.stop - rows.start) if isinstance(rows, slice) else rows.numel()


class GroupedPunicaWrapperCPU(PunicaWrapperCPU):
    """Drop-in for `PunicaWrapperCPU`; `a` and `b` are the stacked weights S x 1 x R x d_in and S x 1 x d_out x R."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._token_groups: list[Group] = []
        self._alone: list[Group] = []
        self._batch: Batch | None = None
        self._sampler_groups: list[Group] = []
        # {address of a layer's first stacked A: {slot: rank of each of the layer's slices}}; missing: every row counts.
        self._ranks: dict[int, dict[int, tuple[int, ...]]] = {}

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._token_groups = group_rows(self.token_lora_indices)
        self._alone, self._batch = split_groups(self._token_groups)
        self._sampler_groups = group_rows(self.sampler_indices)

    def note_slot(self, stacked_a: Sequence[Tensor], slot: int, ranks: tuple[int, ...]) -> None:
        """The adapter now in `slot` has these ranks in a layer, 0 for a slice that it does not touch."""
        self._ranks.setdefault(stacked_a[0].data_ptr(), {})[slot] = ranks

    def swap_slots(self, stacked_a: Sequence[Tensor], one: int, other: int) -> bool:
        """Two slots of a layer change places; whether there is anything in them to be moved."""
        known = self._ranks.setdefault(stacked_a[0].data_ptr(), {})
        known[one], known[other] = (
            tuple(_rank(known, slot, i, a) for i, a in enumerate(stacked_a)) for slot in (other, one)
        )
        return any(known[one]) or any(known[other])

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,
        **kwargs: Any,
    ) -> None:
        """y (N x d_out) += scale * B A x of each row's adapter; x: N x d_in. In place."""
        known = self._ranks.get(lora_a_stacked[0].data_ptr(), {})
        offset = 0
        for i, (a, b, width) in enumerate(zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True)):
            part = y[:, offset : offset + width]
            offset += width
            for slot, rows in self._alone:
                if rank := _rank(known, slot, i, a):
                    _add_product(part, rows, x[rows], a[slot, 0, :rank], b[slot, 0, :width, :rank], scale)
            batch = self._batch
            if batch is not None and any(
                _rank(known, slot, i, a) for slot in range(batch.slots.start, batch.slots.stop)
            ):
                # Weights beyond a slot's rank are zero. They are read as well: a batch with gaps takes twice as long.
                _add_batch(part, batch, x, a[batch.slots, 0], b[batch.slots, 0, :width], scale)

    def add_lora_embedding(
        self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **kwargs: Any
    ) -> None:
        """y (N x d_out) += B x of each row's adapter; x: N x R, the rows of A that vLLM has looked up."""
        if not add_inputs:
            y.zero_()
        for slot, rows in self._token_groups:
            _add(y, rows, linear(x[rows].to(lora_b_stacked.dtype), lora_b_stacked[slot, 0]))

    def add_lora_logits(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Tensor,
        lora_b_stacked: Tensor,
        scale: float,
        *,
        buffer: Tensor | None = None,
        **kwargs: Any,
    ) -> None:
        """y (N x vocabulary) += scale * B A x of each sampled row's adapter; x: N x d."""
        flat_y, flat_x = y.view(-1, y.shape[-1]), x.view(-1, x.shape[-1])
        for slot, rows in self._sampler_groups:
            b = lora_b_stacked[slot, 0]
            _add_product(flat_y[:, : b.shape[0]], rows, flat_x[rows], lora_a_stacked[slot, 0], b, scale)


def _rank(known: dict[int, tuple[int, ...]], slot: int, slice_index: int, a: Tensor) -> int:
    """Of the adapter in a slot, as far as it is known; the most that fits otherwise."""
    ranks = known.get(slot)
    return a.shape[2] if ranks is None else ranks[slice_index]


def _add_batch(y: Tensor, batch: Batch, x: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    """a: slots x rank x d_in; b: slots x width x rank."""
    inputs = x.new_zeros(batch.count * batch.height, x.shape[-1]).index_copy_(0, batch.places, x[batch.rows])
    delta = torch.bmm(torch.bmm(inputs.view(batch.count, batch.height, -1), a.mT), b.mT).view(inputs.shape[0], -1)
    delta = delta[batch.places]
    y.index_add_(0, batch.rows, (delta if scale == 1.0 else delta * scale).to(y.dtype))


def _add_product(y: Tensor, rows: slice | Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    delta = linear(linear(x, a), b)
    _add(y, rows, delta if scale == 1.0 else delta * scale)


def _add(y: Tensor, rows: slice | Tensor, delta: Tensor) -> None:
    if isinstance(rows, slice):
        y[rows] += delta
    else:
        y.index_add_(0, rows, delta.to(y.dtype))


def holds_slots(module: Any) -> bool:
    """Whether what a layer keeps of its adapters is stacked weights alone, multiplied here."""
    return isinstance(getattr(module, "punica_wrapper", None), GroupedPunicaWrapperCPU) and all(
        isinstance(getattr(module, name, None), tuple) for name in ("lora_a_stacked", "lora_b_stacked")
    )


def watch_slots(model_manager: ModuleType) -> None:
    """Tell the wrapper what each slot holds: every write to one goes through `activate_adapter`."""
    manager_class = model_manager.LoRAModelManager
    activate: Callable[[Any, int], bool] = manager_class.activate_adapter

    def activate_adapter(self: Any, lora_id: int) -> bool:
        written = activate(self, lora_id)
        if written:
            _note_slots(self, lora_id)
        return written

    manager_class.activate_adapter = activate_adapter


def _note_slots(manager: Any, lora_id: int) -> None:
    slot = manager.lora_index_to_id.index(lora_id)
    adapter = manager._registered_adapters[lora_id]
    for name, module in manager.modules.items():
        if not holds_slots(module):
            continue
        wrapper, stacked = module.punica_wrapper, module.lora_a_stacked
        weights = manager._get_lora_layer_weights(adapter, name)
        slices = [None] * len(stacked) if weights is None else weights.lora_a
        slices = slices if isinstance(slices, list) else [slices]
        if len(slices) == len(stacked):
            wrapper.note_slot(stacked, slot, tuple(0 if a is None else a.shape[0] for a in slices))
        else:  # a layout that splits what the adapter holds in one piece
            wrapper.note_slot(stacked, slot, tuple(a.shape[2] for a in stacked))
