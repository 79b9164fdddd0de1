"""The LoRA product on CPUs: for the adapters present in the step alone, many of few rows each in one compiled kernel.

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

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from service.vllm_plugin.compiled import kernel

# The rows of one slot: (slot, slice) where they lie side by side, (slot, row numbers) otherwise.
Group = tuple[int, slice | Tensor]
# Up to so many rows of a slot the kernel is quicker than two of torch's products, which pack the slot's weights anew.
FEW_ROWS = 8


@dataclass(frozen=True)
class Part:
    """What the adapters of a step do to one slice of a layer's output."""

    columns: slice
    alone: list[tuple[slice | Tensor, Tensor, Tensor]]  # rows, A and B of a slot: products of its own
    few: tuple[Any, ...] | None  # a, b and the work of the compiled kernel


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


def _in_arrays(groups: list[tuple[int, slice | Tensor, int]]) -> tuple[np.ndarray[Any, Any], ...]:
    """Rows, starts, slots and ranks, as the kernel takes them."""
    rows = [np.arange(r.start, r.stop) if isinstance(r, slice) else r.numpy() for _, r, _ in groups]
    starts = np.cumsum([0, *map(len, rows)])
    return np.concatenate(rows), starts, np.array([slot for slot, _, _ in groups]), np.array([r for _, _, r in groups])


def _size(rows: slice | Tensor) -> int:
    return int(rows.stop - rows.start) if isinstance(rows, slice) else rows.numel()


class GroupedPunicaWrapperCPU(PunicaWrapperCPU):
    """Drop-in for `PunicaWrapperCPU`; `a` and `b` are the stacked weights S x 1 x R x d_in and S x 1 x d_out x R."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._kernel = kernel(kwargs["lora_config"].lora_dtype) if "lora_config" in kwargs else kernel()
        self._token_groups: list[Group] = []
        self._sampler_groups: list[Group] = []
        self._rows = 0
        # {address of a layer's first stacked A: ...}: {slot: rank of each of the layer's slices} (missing: every row counts), and
        # what the present step does there.
        self._ranks: dict[int, dict[int, tuple[int, ...]]] = {}
        self._parts: dict[int, list[Part]] = {}

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._token_groups = group_rows(self.token_lora_indices)
        with_adapter = (self.token_lora_indices >= 0).nonzero()
        self._rows = int(with_adapter[-1]) + 1 if len(with_adapter) else 0
        self._sampler_groups = group_rows(self.sampler_indices)
        self._parts.clear()

    def note_slot(self, stacked_a: Sequence[Tensor], slot: int, ranks: tuple[int, ...]) -> None:
        """The adapter now in `slot` has these ranks in a layer, 0 for a slice that it does not touch."""
        self._ranks.setdefault(stacked_a[0].data_ptr(), {})[slot] = ranks
        self._parts.clear()

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
        """y (N x d_out) += scale * B A x of each row's adapter; x: N x d_in. In place. Raises IndexError for a step of fewer rows
        than it was announced with: the kernel would write behind them."""
        if min(len(x), len(y)) < self._rows:
            raise IndexError(f"{min(len(x), len(y))} rows, of which number {self._rows} has an adapter")
        address = lora_a_stacked[0].data_ptr()
        parts = self._parts.get(address)
        if parts is None:
            parts = self._parts[address] = self._plan(y, x, lora_a_stacked, lora_b_stacked, output_slices)
        for part in parts:
            for rows, a, b in part.alone:
                _add_product(y[:, part.columns], rows, x[rows], a, b, scale)
            if part.few is not None and self._kernel is not None:
                add_products = self._kernel.add_products(x.dtype)
                add_products(self._kernel.seen(y), self._kernel.seen(x), *part.few, scale)

    def _plan(
        self, y: Tensor, x: Tensor, a: Sequence[Tensor], b: Sequence[Tensor], widths: Sequence[int]
    ) -> list[Part]:
        """Of a layer, for the present step."""
        known = self._ranks.get(a[0].data_ptr(), {})
        parts: list[Part] = []
        offset = 0
        for index, (a_slice, b_slice, width) in enumerate(zip(a, b, widths, strict=True)):
            columns = slice(offset, offset + width)
            offset += width
            ranked = [(slot, rows, _rank(known, slot, index, a_slice)) for slot, rows in self._token_groups]
            ranked = [group for group in ranked if group[2]]
            if not ranked:
                continue
            fits = self._kernel is not None and self._kernel.fits(y, x, a_slice, b_slice)
            fits = fits and columns.stop <= y.shape[1] and b_slice.shape[2] == width
            few = [group for group in ranked if fits and _size(group[1]) <= FEW_ROWS]
            alone = [
                (rows, a_slice[slot, 0, :rank], b_slice[slot, 0, :width, :rank])
                for slot, rows, rank in ranked
                if not fits or _size(rows) > FEW_ROWS
            ]
            parts.append(Part(columns, alone, self._few(few, a_slice, b_slice, columns.start)))
        return parts

    def _few(
        self, groups: list[tuple[int, slice | Tensor, int]], a: Tensor, b: Tensor, column: int
    ) -> tuple[Any, ...] | None:
        if self._kernel is None or not groups:
            return None
        return self._kernel.seen(a[:, 0]), self._kernel.seen(b[:, 0]), self._kernel.Work(*_in_arrays(groups), column)

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


def _add_product(y: Tensor, rows: slice | Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float) -> None:
    delta = linear(linear(x, a), b)
    _add(y, rows, delta if scale == 1.0 else delta * scale)


def _add(y: Tensor, rows: slice | Tensor, delta: Tensor) -> None:
    if isinstance(rows, slice):
        y[rows] += delta
    else:
        y.index_add_(0, rows, delta.to(y.dtype))


def _multiplied_here(module: Any) -> bool:
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
        if not _multiplied_here(module):
            continue
        wrapper, stacked = module.punica_wrapper, module.lora_a_stacked
        weights = manager._get_lora_layer_weights(adapter, name)
        slices = [None] * len(stacked) if weights is None else weights.lora_a
        slices = slices if isinstance(slices, list) else [slices]
        if len(slices) == len(stacked):
            wrapper.note_slot(stacked, slot, tuple(0 if a is None else a.shape[0] for a in slices))
        else:  # a layout that splits what the adapter holds in one piece
            wrapper.note_slot(stacked, slot, tuple(a.shape[2] for a in stacked))
