"""A loaded generator: token ids in, adapters out."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import torch
from torch import Tensor

from generator.adapter import Adapter
from generator.base_model import fingerprint_base, resolve_base_model
from generator.checkpoint import CheckpointError, Expander, fingerprint_generator, load_network, resolve_checkpoint
from generator.config import GeneratorConfig, Strategy
from generator.encode import Encoder, State, cut, decoder_layers
from generator.factors import factorize
from generator.model import GeneratorNetwork
from generator.processor import quickest
from generator.state import state_from_bytes, state_to_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
BATCH_TOKENS = 16_384
# Documents whose states are factorized at once, which a GPU does in little more time than one.
_FACTORIZED_TOGETHER = 16


class Generator:
    """The frozen base model and the trained network. One call at a time; for several threads, a lock is the caller's."""

    def __init__(
        self,
        base: Any,
        network: GeneratorNetwork,
        tokenizer: PreTrainedTokenizerBase | None,
        expander: Expander,
        batch_tokens: int = BATCH_TOKENS,
    ) -> None:
        """batch_tokens: documents share a pass of the base model up to so many, padding included. On a CPU one document at a
        time, whatever it is: some cores are busy with a single chunk, and a document's adapter then has the same bits in
        whatever company it comes. A GPU needs the company."""
        self.base = base
        self.network = network
        self.tokenizer = tokenizer
        self.expander = expander
        self.encoder = Encoder(base, network, 1 if next(base.parameters()).device.type == "cpu" else batch_tokens)

    @property
    def config(self) -> GeneratorConfig:
        return self.network.config

    @property
    def fingerprint(self) -> str:
        return self.expander.fingerprint

    @property
    def base_fingerprint(self) -> str:
        return self.expander.base_fingerprint

    def chunk_count(self, n_tokens: int, strategy: Strategy | None = None) -> int:
        """How many passes a document of `n_tokens` takes."""
        if (strategy or self.config.strategy) == "concat":
            return 1
        return len(cut(range(n_tokens), self.config.window))

    def encode(
        self,
        documents: Sequence[Sequence[int]],
        strategy: Strategy | None = None,
        states: Sequence[State | None] | None = None,
        on_chunk: Callable[[], None] | None = None,
    ) -> list[State]:
        """The one forward pass: the state of each document (see `Encoder.encode`). Raises ValueError, `ContextTooLong`."""
        vocabulary = self.base.get_input_embeddings().num_embeddings
        for document in documents:
            if not document:
                raise ValueError("a document without tokens")
            if min(document) < 0 or max(document) >= vocabulary:
                raise ValueError(f"a token id outside 0..{vocabulary - 1}")
        return self.encoder.encode(documents, strategy or self.config.strategy, states, on_chunk)

    @torch.inference_mode()
    def factorize(self, states: Sequence[State]) -> list[Adapter]:
        """States -> adapters."""
        factors: list[tuple[Tensor, Tensor]] = []
        for start in range(0, len(states), _FACTORIZED_TOGETHER):
            some = torch.stack([state.s for state in states[start : start + _FACTORIZED_TOGETHER]])
            factors += zip(*(factor.cpu() for factor in factorize(some, self.config)), strict=True)
        pairs = zip(states, factors, strict=True)
        return [Adapter(u, v, self.expander, state.tokens, state.chunks, state) for state, (u, v) in pairs]

    def state_to_bytes(self, state: State) -> bytes:
        """What `encode(..., states=)` needs to go on later."""
        return state_to_bytes(state, self.fingerprint)

    def state_from_bytes(self, data: bytes) -> State:
        """Raises `DamagedAdapter`; ValueError for another generator's."""
        state = state_from_bytes(data, self.config, self.fingerprint)
        return State(state.s.to(self.encoder.device), state.tokens, state.chunks)

    @overload
    def contextualize(self, token_ids: list[int] | Tensor, strategy: Strategy | None = None) -> Adapter: ...
    @overload
    def contextualize(self, token_ids: list[list[int]], strategy: Strategy | None = None) -> list[Adapter]: ...
    def contextualize(
        self, token_ids: list[int] | Tensor | list[list[int]], strategy: Strategy | None = None
    ) -> Adapter | list[Adapter]:
        """One document (ids, or a 1-D tensor) -> its adapter; a list of them -> a list. Raises ValueError."""
        if isinstance(token_ids, Tensor):
            if token_ids.dim() != 1:
                raise ValueError(f"token ids have {token_ids.dim()} dimensions; a document has one, several are a list")
            token_ids = token_ids.tolist()
        if all(isinstance(item, int) for item in token_ids):
            return self.factorize(self.encode([cast("list[int]", token_ids)], strategy))[0]
        documents = [list(map(int, ids)) for ids in cast("list[list[int]]", token_ids)]
        return self.factorize(self.encode(documents, strategy))


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """`float32`, `bfloat16`, or `auto`: the one that is quicker on the device. Raises ValueError."""
    if name == "auto":
        return DTYPES[quickest(device)]
    if name not in DTYPES:
        raise ValueError(f"{name!r} is not one of auto, {', '.join(DTYPES)}")
    return DTYPES[name]


def load_base(folder: Path, device: str, dtype: torch.dtype) -> Any:
    """The frozen base model."""
    from transformers import AutoModelForCausalLM

    if torch.device(device).type == "cuda":
        # cuDNN's attention makes a plan for every new shape, and documents rarely have the same length twice: half of a
        # training step's time on an H200. The other kernels need none.
        torch.backends.cuda.enable_cudnn_sdp(False)
    base: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return base.to(device).eval().requires_grad_(False)


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase | None:
    """The base model's tokenizer, None where the folder has none."""
    from transformers import AutoTokenizer

    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model", "vocab.json")):
        return None
    return AutoTokenizer.from_pretrained(folder)


def load_generator(
    checkpoint: str | os.PathLike[str],
    base_model: str | os.PathLike[str] | None = None,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    batch_tokens: int = BATCH_TOKENS,
) -> Generator:
    """Load a checkpoint (folder or shipped name) and its base model (as the checkpoint names it, unless given).

    dtype is the base model's; the network computes in it too, S is always summed in float32. batch_tokens: see `Generator`.
    Raises `CheckpointError`, `BaseModelNotFound`.
    """
    root = resolve_checkpoint(checkpoint, base_model)
    network = load_network(root)
    folder = resolve_base_model(base_model or network.config.base_model)
    base_fingerprint = fingerprint_base(folder)
    expected = network.config.base_fingerprint
    if expected and expected != base_fingerprint:
        raise CheckpointError(
            f"{root.name} was trained for another base model than {folder.name} (fingerprints differ)"
        )
    base = load_base(folder, device, dtype)
    _check_fit(base, network.config)
    expander = Expander(
        config=network.config,
        fingerprint=fingerprint_generator(root),
        base_fingerprint=base_fingerprint,
        a1=[module.A1.detach().clone() for module in network.generators],
        b=[module.B.detach().clone() for module in network.generators],
    )
    return Generator(base, network.to(device, dtype), load_tokenizer(folder), expander, batch_tokens)


def _check_fit(base: Any, config: GeneratorConfig) -> None:
    """Every target exists in the base model with the shape that the configuration says."""
    count = len(decoder_layers(base))
    for target in config.targets:
        try:
            weight = base.get_submodule(target.name).weight
        except AttributeError as error:
            raise CheckpointError(f"the base model has no module {target.name}") from error
        if tuple(weight.shape) != (target.d_out, target.d_in) or target.layer >= count:
            raise CheckpointError(f"{target.name} does not have the shape {target.d_out} x {target.d_in}")
