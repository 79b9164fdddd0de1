"""The frozen base model as training uses it: one pass with every state that is needed, and the upper layers once more.

Layers below the first adapted one do not depend on the adapter: rows pass them once, without a graph, and only the upper
ones again with the adapter attached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from generator.config import GeneratorConfig
from generator.encode import EndOfPass, LoraWeights, attached, decoder_layers

# Tokens (padding included) in one pass, which bounds the activations; and how much longer than its shortest row a pass may be:
# on a CPU padding costs what tokens cost, on a GPU a pass costs more than its padding.
_PASS_TOKENS = {"cpu": 2048, "cuda": 24_576}
_PADDING = {"cpu": 1.3, "cuda": 2.0}


@dataclass
class Chunk:
    """What one frozen pass over a chunk of T tokens leaves for training (its prefix left out)."""

    ids: list[int]
    embedding: Tensor  # T x d_model
    states: dict[int, Tensor]  # entering each adapted layer, T x d_model
    final: Tensor  # after the last layer and norm, T x d_model: row t predicts token t + 1


@dataclass
class Half:
    """Rows stopped before the first adapted layer."""

    hidden: Tensor  # N x T x d_model
    kwargs: dict[str, Any]  # what the layers are called with besides the hidden states


class FrozenModel:
    """A Hugging Face decoder whose layers all take the same arguments (no mix of sliding and full attention)."""

    def __init__(self, base: Any, config: GeneratorConfig, gradient_checkpointing: bool = False) -> None:
        self.gradient_checkpointing = gradient_checkpointing
        self.base = base
        self.decoder = base.get_decoder()
        self.layers = decoder_layers(base)
        self.first = min(target.layer for target in config.targets)
        self.read_layers = sorted({target.layer for target in config.targets})
        self.prefix = list(config.prefix_ids)
        self.device = next(base.parameters()).device

    def batches(self, lengths: list[int]) -> list[list[int]]:
        """Indices in ascending order of length, as many in one pass as fit."""
        kind = self.device.type
        most, padding = _PASS_TOKENS[kind], _PADDING[kind]
        result: list[list[int]] = []
        for index in sorted(range(len(lengths)), key=lengths.__getitem__):
            length = lengths[index]
            if result and (len(result[-1]) + 1) * length <= most and length <= padding * lengths[result[-1][0]]:
                result[-1].append(index)
            else:
                result.append([index])
        return result

    @torch.no_grad()
    def read(self, chunks: list[list[int]], lora: LoraWeights | None = None, scaling: float = 0.0) -> list[Chunk]:
        """One pass over each chunk, `lora` attached; chunks of about one length share a pass."""
        result: dict[int, Chunk] = {}
        skip = len(self.prefix)
        for batch in self.batches([len(chunk) + skip for chunk in chunks]):
            with attached(self.base, lora or {}, scaling):
                states, final = self._read([[*self.prefix, *chunks[i]] for i in batch])
            for row, i in enumerate(batch):
                kept = slice(skip, skip + len(chunks[i]))
                here = {layer: state[row, kept] for layer, state in states.items()}
                result[i] = Chunk(chunks[i], here[0], here, final[row, kept])
        return [result[i] for i in range(len(chunks))]

    def _read(self, rows: list[list[int]]) -> tuple[dict[int, Tensor], Tensor]:
        """States entering layer 0 and the adapted layers, and the final ones; all N x T x d_model."""
        states: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                states[layer] = args[0]

            return hook

        handles = [self.layers[layer].register_forward_pre_hook(keep(layer)) for layer in {0, *self.read_layers}]
        try:
            final = self.decoder(input_ids=pad(rows).to(self.device), use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return states, final

    @torch.no_grad()
    def final(self, ids: list[int]) -> Tensor:
        """The last states over one row, without adapter: T x d_model."""
        states: Tensor = self.decoder(input_ids=pad([ids]).to(self.device), use_cache=False).last_hidden_state[0]
        return states

    @torch.no_grad()
    def lower(self, rows: list[list[int]]) -> Half:
        """Pass rows up to the first adapted layer."""
        ids = pad(rows).to(self.device)
        caught: list[Half] = []

        def hook(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            caught.append(Half(args[0], kwargs))
            raise EndOfPass

        handle = self.layers[self.first].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            self.decoder(input_ids=ids, use_cache=False)
        except EndOfPass:
            pass
        finally:
            handle.remove()
        return caught[0]

    def upper(self, half: Half, lora: LoraWeights, scaling: float) -> Tensor:
        """The rest of the pass, with an adapter for each row (or none): final states, N x T x d_model."""
        hidden = half.hidden

        def upper_layer(layer: nn.Module, state: Tensor) -> Tensor:
            # Attached here and not around the loop: a checkpointed layer runs once more during the backward pass.
            with attached(self.base, lora, scaling):
                out = layer(state, **half.kwargs)
            result: Tensor = out[0] if isinstance(out, tuple) else out
            return result

        for layer in self.layers[self.first :]:
            if self.gradient_checkpointing and torch.is_grad_enabled():
                hidden = checkpoint(upper_layer, layer, hidden, use_reentrant=False)
            else:
                hidden = upper_layer(layer, hidden)
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def logits(self, states: Tensor) -> Tensor:
        """Final states (... x d_model) -> logits (... x vocabulary), float32."""
        head: Tensor = self.base.get_output_embeddings()(states)
        return head.float()


def pad(rows: list[list[int]]) -> Tensor:
    """Ids padded on the right with 0: N x T."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
    return ids
