"""One pass of the frozen base model over a document: token ids -> state S of every adapted module.

S is accumulated as each layer's input passes by. Nothing else is kept: no hidden states of other layers, no logits, no KV
cache; the pass ends at the input of the last adapted layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from generator.config import Strategy
from generator.factors import expand, factorize
from generator.model import GeneratorNetwork

# LoRA weights by target module: lora_A (k x d_in) and lora_B (d_out x k), or one such pair for each row of a batch.
LoraWeights = Mapping[str, tuple[Tensor, Tensor]]


class ContextTooLong(ValueError):
    """A chunk has more tokens than the base model has positions."""


@dataclass
class State:
    """What a context has left so far: S of every target (M x r1 x r2, float32), and how much was read."""

    s: Tensor
    tokens: int = 0
    chunks: int = 0


class EndOfPass(Exception):
    """Ends the base model's pass where nothing more is needed."""


def cut(ids: Sequence[int], window: int) -> list[list[int]]:
    """n = ceil(T / window) chunks of ceil(T / n) tokens, the last one shorter, as the reference cuts."""
    count = max(1, -(-len(ids) // window))
    size = max(1, -(-len(ids) // count))
    return [list(ids[start : start + size]) for start in range(0, len(ids), size)]


def decoder_layers(base: Any) -> nn.ModuleList:
    """The decoder layers of a Hugging Face causal LM."""
    layers = getattr(_decoder(base), "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise ValueError(f"{type(base).__name__}: no decoder layers found")
    return layers


def _decoder(base: Any) -> nn.Module:
    decoder = base.get_decoder()
    inner: nn.Module = getattr(decoder, "language_model", decoder)
    return inner


class Encoder:
    """Reads chunks with the frozen base model."""

    def __init__(self, base: Any, network: GeneratorNetwork, batch_tokens: int) -> None:
        """batch_tokens: tokens (padding included) that one pass of the base model may hold."""
        self.base = base
        self.network = network
        self.config = network.config
        self.batch_tokens = batch_tokens
        self._layers = decoder_layers(base)
        self.device = next(base.parameters()).device

    def empty_state(self) -> State:
        config = self.config
        return State(torch.zeros(len(config.targets), config.r1, config.r2, device=self.device))

    def encode(
        self,
        documents: Sequence[Sequence[int]],
        strategy: Strategy,
        states: Sequence[State | None] | None = None,
        on_chunk: Callable[[], None] | None = None,
    ) -> list[State]:
        """States of several documents, each as it would be alone.

        `states`: continue from these (left unchanged; None: from nothing). `on_chunk` is called before each pass; what it
        raises ends the work.
        """
        before = states or [None] * len(documents)
        started = [self.empty_state() if s is None else State(s.s.clone(), s.tokens, s.chunks) for s in before]
        window = self.config.window if strategy != "concat" else max(map(len, documents), default=1) or 1
        chunks = [cut(document, window) for document in documents]
        if strategy == "sequential":
            for state, pieces in zip(started, chunks, strict=True):
                for piece in pieces:
                    with attached(self.base, self._weights(state), self.config.scaling if state.chunks else 0.0):
                        self._read([piece], [state], on_chunk)
            return started
        order = [(state, piece) for state, pieces in zip(started, chunks, strict=True) for piece in pieces]
        for batch in self._batches(order):
            self._read([piece for _, piece in batch], [state for state, _ in batch], on_chunk)
        return started

    def _batches(self, order: list[tuple[State, list[int]]]) -> Iterator[list[tuple[State, list[int]]]]:
        """Neighbours in one pass while they and their padding fit into batch_tokens; the order of sums never changes."""
        batch: list[tuple[State, list[int]]] = []
        longest = 0
        for item in order:
            longest = max(longest, len(item[1]))
            if batch and (len(batch) + 1) * longest > self.batch_tokens:
                yield batch
                batch, longest = [], len(item[1])
            batch.append(item)
        if batch:
            yield batch

    def _read(self, chunks: list[list[int]], states: list[State], on_chunk: Callable[[], None] | None) -> None:
        if on_chunk is not None:
            on_chunk()
        ids, mask = self._pad(chunks)
        for index, s in self.states_of(ids, mask):
            for row, state in enumerate(states):
                state.s[index] += s[row]
        for chunk, state in zip(chunks, states, strict=True):
            state.tokens += len(chunk)
            state.chunks += 1

    def _pad(self, chunks: list[list[int]]) -> tuple[Tensor, Tensor]:
        """Rows prefixed and padded on the right (a causal model's states before the padding do not see it)."""
        prefix = list(self.config.prefix_ids)
        length = max(map(len, chunks)) + len(prefix)
        positions = getattr(self.base.config, "max_position_embeddings", None)
        if positions is not None and length > positions:
            raise ContextTooLong(
                f"a chunk of {length} tokens is longer than the base model's {positions} positions; "
                "use the strategy parallel or sequential"
            )
        ids = torch.zeros(len(chunks), length, dtype=torch.long)
        mask = torch.zeros(len(chunks), length)
        for row, chunk in enumerate(chunks):
            ids[row, : len(prefix) + len(chunk)] = torch.tensor(prefix + chunk)
            mask[row, len(prefix) : len(prefix) + len(chunk)] = 1
        return ids.to(self.device), mask.to(self.device)

    @torch.inference_mode()
    def states_of(self, ids: Tensor, mask: Tensor) -> list[tuple[int, Tensor]]:
        """One pass over ids (N x T): for every target its index and S of each row (N x r1 x r2, float32)."""
        found: list[tuple[int, Tensor]] = []
        embedding: list[Tensor] = []

        def passing(layer: int) -> Callable[..., None]:
            def hook(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
                hidden = args[0] if args else kwargs["hidden_states"]
                if layer == 0:
                    embedding.append(hidden)
                for index, module in self.network.at_layer(layer):
                    found.append((index, module.state(hidden, embedding[0], mask)))
                if layer == self.config.last_layer:
                    raise EndOfPass

            return hook

        layers = sorted({0, *(target.layer for target in self.config.targets)})
        handles = [self._layers[i].register_forward_pre_hook(passing(i), with_kwargs=True) for i in layers]
        try:
            _decoder(self.base)(input_ids=ids, use_cache=False)
        except EndOfPass:
            pass
        finally:
            for handle in handles:
                handle.remove()
        return found

    def _weights(self, state: State) -> LoraWeights:
        """The LoRA that a state stands for, where the base model is (empty for the empty state)."""
        if not state.chunks:
            return {}
        u, v = factorize(state.s, self.config)
        return expand_factors(u, v, self.network)


def expand_factors(u: Tensor, v: Tensor, network: GeneratorNetwork) -> dict[str, tuple[Tensor, Tensor]]:
    """The LoRA of a network's own factors, where and in what precision the network is. u: M x r1 x k; v: M x r2 x k."""
    return expand(network.config.targets, u, v, [g.A1 for g in network.generators], [g.B for g in network.generators])


@contextmanager
def attached(base: Any, lora: LoraWeights, scaling: float) -> Iterator[None]:
    """While open, every named linear x of `base` gives Wx + scaling * lora_B lora_A x."""

    def adding(a: Tensor, b: Tensor) -> Callable[..., Tensor]:
        def hook(_module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
            x = args[0]
            return output + x @ a.mT.to(x.dtype) @ b.mT.to(x.dtype) * scaling

        return hook

    handles = [base.get_submodule(name).register_forward_hook(adding(a, b)) for name, (a, b) in lora.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
