"""The ways of answering that are compared. Each turns a document into an adapter, into text before the question, or neither."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from generator.encode import ContextTooLong
from generator.evaluation import tasks
from generator.evaluation.costs import BYTES_PER_NUMBER, adapter_numbers, attached_numbers, generating
from generator.evaluation.engines import Engine, InProcess, Made
from generator.evaluation.finetuning import Tuned, numbers
from generator.evaluation.items import Item
from generator.evaluation.retrieval import best_passages

# Room in the window for the question, the chat's own tokens and the answer.
_RESERVED_TOKENS = 256
# Passages (or demonstrations) that retrieval takes.
_BEST = 3


@dataclass(frozen=True)
class DocumentCost:
    """Of a document, before anything is asked; see `costs`."""

    tokens: int = 0
    flops: float = 0.0
    seconds: float = 0.0
    numbers: int = 0  # stored

    def to_json(self) -> dict[str, float]:
        return {
            "tokens": self.tokens,
            "flops": self.flops,
            "seconds": round(self.seconds, 3),
            "numbers": self.numbers,
            "bytes": self.numbers * BYTES_PER_NUMBER,
        }


@dataclass
class Prepared:
    """What is asked with: an adapter (of `attached` numbers while it is in use), and the text before each question."""

    contexts: list[str]
    handle: Any = None
    cost: DocumentCost = field(default_factory=DocumentCost)
    attached: int = 0
    note: dict[str, float] = field(default_factory=dict)


class Methods:
    """All of them, over one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._tuned: tuple[str, tuple[Tuned, Tuned]] | None = None
        self._by_name: dict[str, Callable[[Item], Prepared | None]] = {
            tasks.CLOSED: lambda item: Prepared(self._nothing(item)),
            tasks.PROMPT: self._prompt,
            tasks.CUT: self._cut,
            tasks.RETRIEVAL: self._retrieval,
            tasks.OWN: lambda item: self._adapter(item, item.document),
            tasks.OTHER: lambda item: self._adapter(item, item.other_document),
            tasks.TUNED: lambda item: self._tune(item, 0),
            tasks.CONVERGED: lambda item: self._tune(item, 1),
        }

    def prepare(self, method: str, item: Item) -> Prepared | None:
        """None where the method has nothing to say: the document does not fit, or was not too long."""
        return self._by_name[method](item)

    @staticmethod
    def _nothing(item: Item) -> list[str]:
        return [""] * len(item.asked)

    def _room(self) -> int:
        return self.engine.window - _RESERVED_TOKENS

    def _prompt(self, item: Item) -> Prepared | None:
        tokens = self.engine.text.length(item.document)
        return self._in_prompt(item, item.document, tokens) if tokens <= self._room() else None

    def _cut(self, item: Item) -> Prepared | None:
        if self.engine.text.length(item.document) <= self._room():
            return None
        return self._in_prompt(item, self.engine.text.cut(item.document, self._room()), self._room())

    def _in_prompt(self, item: Item, text: str, tokens: int) -> Prepared:
        cost = DocumentCost(tokens, numbers=self.engine.shape.cache_numbers(tokens))
        return Prepared([text] * len(item.asked), cost=cost)

    def _retrieval(self, item: Item) -> Prepared | None:
        if len(item.passages) <= _BEST:  # the same as the whole document
            return None
        found = [best_passages(item.passages, asked.text, _BEST) for asked in item.asked]
        return Prepared([item.joint.join(passages) for passages in found])

    def _adapter(self, item: Item, document: str) -> Prepared | None:
        try:
            made: Made = self.engine.contextualize(document)
        except ContextTooLong:  # the checkpoint reads everything in one chunk
            return None
        config = self.engine.config
        cost = DocumentCost(
            made.tokens, generating(self.engine.shape, config, made.tokens), made.seconds, adapter_numbers(config)
        )
        return Prepared(self._nothing(item), made.handle, cost, attached_numbers(config))

    def _tune(self, item: Item, which: int) -> Prepared | None:
        """Which: 0 for as long as the adapter took, 1 until it converges. Both come from one training."""
        if not isinstance(self.engine, InProcess):
            return None
        key = item.document
        if self._tuned is None or self._tuned[0] != key:
            self._tuned = (key, self.engine.tune(key, self.engine.contextualize(key).seconds))
        tuned = self._tuned[1][which]
        stored = numbers(self.engine.generator.base)
        flops = 3 * tuned.passes * self.engine.shape.reading(tuned.tokens // tuned.passes)
        cost = DocumentCost(tuned.tokens // tuned.passes, flops, tuned.seconds, stored)
        return Prepared(self._nothing(item), tuned.lora, cost, stored, {"passes": tuned.passes})
