"""The frozen base model as training uses it: one pass with every state that is needed, and the upper layers once more.

Layers below the first adapted one do not depend on the adapter: rows pass them once, without a graph, and only the upper
ones again with the adapter attached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from generator.config import GeneratorConfig
from generator.encode import LoraWeights, attached, decoder_layers


@dataclass
class Context:
    """What one frozen pass over chunks leaves for training."""

    ids: Tensor  # N x T
    mask: Tensor  # N x T, 1 on tokens of the document
    embedding: Tensor  # N x T x d_model
    states: dict[int, Tensor]  # entering each adapted layer, N x T x d_model
    final: Tensor  # after the last layer and norm, N x T x d_model


@dataclass
class Half:
    """Rows stopped before the first adapted layer."""

    hidden: Tensor  # N x T x d_model
    kwargs: dict[str, Any]  # what the layers are called with besides the hidden states


class FrozenModel:
    """A Hugging Face decoder whose layers all take the same arguments (no mix of sliding and full attention)."""

    def __init__(self, base: Any, config: GeneratorConfig) -> None:
        self.base = base
        self.decoder = base.get_decoder()
        self.layers = decoder_layers(base)
        self.first = min(target.layer for target in config.targets)
        self.read_layers = sorted({target.layer for target in config.targets})
        self.device = next(base.parameters()).device

    @torch.no_grad()
    def read(self, ids: Tensor, mask: Tensor) -> Context:
        """One pass over padded chunks (N x T)."""
        states: dict[int, Tensor] = {}

        def keep(layer: int) -> Any:
            def hook(_module: nn.Module, args: tuple[Tensor, ...]) -> None:
                states[layer] = args[0]

            return hook

        handles = [self.layers[layer].register_forward_pre_hook(keep(layer)) for layer in {0, *self.read_layers}]
        try:
            final = self.decoder(input_ids=ids, use_cache=False).last_hidden_state
        finally:
            for handle in handles:
                handle.remove()
        return Context(ids, mask, states[0], states, final)

    @torch.no_grad()
    def lower(self, ids: Tensor) -> Half:
        """Pass rows (N x T) up to the first adapted layer."""
        caught: list[Half] = []

        def hook(_module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]) -> None:
            caught.append(Half(args[0], kwargs))
            raise _Stop

        handle = self.layers[self.first].register_forward_pre_hook(hook, with_kwargs=True)
        try:
            self.decoder(input_ids=ids, use_cache=False)
        except _Stop:
            pass
        finally:
            handle.remove()
        return caught[0]

    def upper(self, half: Half, lora: LoraWeights, scaling: float) -> Tensor:
        """The rest of the pass, with an adapter for each row (or none): final states, N x T x d_model."""
        hidden = half.hidden
        with attached(self.base, lora, scaling):
            for layer in self.layers[self.first :]:
                out = layer(hidden, **half.kwargs)
                hidden = out[0] if isinstance(out, tuple) else out
        normed: Tensor = self.decoder.norm(hidden)
        return normed

    def logits(self, states: Tensor) -> Tensor:
        """Final states (... x d_model) -> logits (... x vocabulary), float32."""
        head: Tensor = self.base.get_output_embeddings()(states)
        return head.float()


class _Stop(Exception):
    """Ends a pass early."""
