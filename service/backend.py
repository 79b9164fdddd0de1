"""The seam to the generator: what the service needs of it, and how it is loaded. Torch comes in only when it is."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from generator.processor import usable_cores
from service.errors import AdapterDamaged, GeneratorUnavailable, TooLarge
from service.settings import Settings

if TYPE_CHECKING:
    from generator.checkpoint import Expander

# Text is first counted in slices where it is longer than this: the tokenizer needs about 100 bytes for each token of
# a call.
SLICE_CHARS = 250_000
WAIT_POLICY = "OMP_WAIT_POLICY"
WARM_UP_TOKENS = 64


class AdapterLike(Protocol):
    @property
    def rank(self) -> int: ...

    tokens: int
    chunks: int

    def to_bytes(self) -> bytes: ...


class Backend(Protocol):
    """A loaded generator. `encode` and `factorize` are called from one thread, one call at a time; `tokenize` from
    another."""

    @property
    def fingerprint(self) -> str: ...
    @property
    def base_fingerprint(self) -> str: ...
    @property
    def default_strategy(self) -> str: ...
    @property
    def batch_tokens(self) -> int:
        """Documents share a pass up to so many tokens, padding included; a longer one goes alone."""

    def tokenize(self, text: str) -> list[int]: ...
    def encode(
        self,
        documents: Sequence[Sequence[int]],
        strategy: str,
        states: Sequence[Any] | None = None,
        on_chunk: Callable[[], None] | None = None,
    ) -> Sequence[Any]:
        """`states`: of each document what it goes on from, or None. `on_chunk` is called before each pass."""

    def dump_state(self, state: Any) -> bytes: ...
    def load_state(self, data: bytes) -> Any:
        """Raises AdapterDamaged."""

    def factorize(self, states: Sequence[Any]) -> Sequence[AdapterLike]: ...


@dataclass(frozen=True)
class Identity:
    """Which base model and generator this replica serves; an adapter made for others answers 409."""

    model_name: str
    base_fingerprint: str
    generator_fingerprint: str


def checkpoint_folder(settings: Settings) -> Path:
    from generator.checkpoint import default_checkpoint, resolve_checkpoint

    return resolve_checkpoint(settings.generator or default_checkpoint(), settings.base_model)


def read_identity(settings: Settings) -> Identity:
    """From the checkpoint's files alone: a replica without the generator needs no more. Raises CheckpointError."""
    from generator.checkpoint import fingerprint_generator, read_config

    folder = checkpoint_folder(settings)
    return Identity(settings.model_name, read_config(folder).base_fingerprint, fingerprint_generator(folder))


def load_expander(settings: Settings) -> Expander:
    """Blocking, some tens of milliseconds once torch is loaded."""
    from generator import checkpoint

    return checkpoint.load_expander(checkpoint_folder(settings))


class TorchBackend:
    """The real generator."""

    def __init__(self, generator: Any) -> None:
        self._generator = generator
        self._tokenizer = generator.tokenizer.backend_tokenizer  # encoding changes nothing: safe beside other threads

    @property
    def fingerprint(self) -> str:
        return str(self._generator.fingerprint)

    @property
    def base_fingerprint(self) -> str:
        return str(self._generator.base_fingerprint)

    @property
    def default_strategy(self) -> str:
        return str(self._generator.config.strategy)

    @property
    def batch_tokens(self) -> int:
        return int(self._generator.encoder.batch_tokens)

    def tokenize(self, text: str) -> list[int]:
        """Without special tokens: the checkpoint says what stands before a chunk."""
        # As a batch, even of one: for that the tokenizer lets other threads run. A long text would stop every request else, a
        # megabyte for most of a second.
        ids: list[int] = self._tokenizer.encode_batch_fast([text], add_special_tokens=False)[0].ids
        return ids

    def encode(
        self,
        documents: Sequence[Sequence[int]],
        strategy: str,
        states: Sequence[Any] | None = None,
        on_chunk: Callable[[], None] | None = None,
    ) -> Sequence[Any]:
        from generator.encode import ContextTooLong

        try:
            read: list[Any] = self._generator.encode(documents, strategy, states, on_chunk)
        except ContextTooLong as error:
            count = max(map(len, documents))
            raise TooLarge(
                f"The document has {count} tokens, too many for the strategy '{strategy}' with this base model: "
                "send it with the strategy parallel or sequential, or in parts.",
                param="strategy",
            ) from error
        return read

    def dump_state(self, state: Any) -> bytes:
        data: bytes = self._generator.state_to_bytes(state)
        return data

    def load_state(self, data: bytes) -> Any:
        from generator.adapter import DamagedAdapter

        try:
            return self._generator.state_from_bytes(data)
        except DamagedAdapter as error:
            raise AdapterDamaged(f"state: {error}") from error

    def factorize(self, states: Sequence[Any]) -> Sequence[AdapterLike]:
        adapters: list[AdapterLike] = self._generator.factorize(states)
        return adapters


def load_backend(settings: Settings) -> Backend:
    """Blocking, seconds: reads the checkpoint and the base model. Raises ValueError with the reason in words."""
    # Before torch loads OpenMP: threads that spin while they wait take the cores from the engine beside us, and with
    # both spinning on two cores a factorization of 0.4 s was seen to take half a minute.
    os.environ.setdefault(WAIT_POLICY, "PASSIVE")
    if (cores := usable_cores()) < len(os.sched_getaffinity(0)):
        os.environ.setdefault("OMP_NUM_THREADS", str(cores))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # a batch is one text
    from generator import load_generator
    from generator.generator import resolve_dtype

    dtype = resolve_dtype(settings.dtype, settings.device)
    generator = load_generator(
        checkpoint_folder(settings), settings.base_model, settings.device, dtype, settings.max_batch_tokens
    )
    if generator.tokenizer is None:
        raise ValueError(f"the base model {settings.base_model} has no tokenizer")
    backend = TorchBackend(generator)
    # The first pass is ten times slower than the next (kernels, thread pools): not at a caller's expense.
    backend.factorize(backend.encode([range(WARM_UP_TOKENS)], backend.default_strategy))
    return backend


def count_tokens_in_slices(backend: Backend, text: str, most: int) -> int:
    """About the number of tokens of a long text, in bounded memory and time (a token across a cut counts twice). Beyond `most` it
    is reckoned from what has been counted: the text is refused then, and 20 MB of it would take a core ten seconds."""
    count = 0
    for begin in range(0, len(text), SLICE_CHARS):
        part = text[begin : begin + SLICE_CHARS]
        count += len(backend.tokenize(part))
        if count > most:
            return round(count * len(text) / (begin + len(part)))
    return count


class BackendHolder:
    """The generator, or why there is none (yet)."""

    def __init__(self, load: Callable[[], Backend]) -> None:
        self.load = load
        self._backend: Backend | None = None
        self.state = "loading"

    def fill(self, backend: Backend) -> None:
        self._backend, self.state = backend, "ready"

    def get(self) -> Backend:
        if self._backend is None:
            raise GeneratorUnavailable(self.state)
        return self._backend
