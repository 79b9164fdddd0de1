"""Who reads and answers: the model in this process, or a running service. Both get the same text."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from generator.config import GeneratorConfig
from generator.evaluation.costs import BYTES_PER_NUMBER, Shape, adapter_numbers
from generator.evaluation.finetuning import Tuned, tune
from generator.evaluation.items import Asked, Text
from generator.evaluation.rows import Row, Rows, common_start
from generator.generator import Generator
from generator.training.objectives import Prompts

# Prompts that share at least so many tokens share their reading too.
_SHARED_TOKENS = 64
# Bytes of adapters that are kept: a document's own was "another document's" some lengths before, or will be.
_KEPT_BYTES = 1 << 28
# Of the base model, where its configuration does not say.
_WINDOW = 1 << 20


@dataclass
class Made:
    """An adapter: what `ask` takes, and what it cost."""

    handle: Any
    tokens: int
    seconds: float
    stored_bytes: int


@dataclass
class Reply:
    text: str = ""
    loss: float | None = None  # of the first answer, summed over `loss_tokens`
    loss_tokens: int = 0
    chosen: str | None = None  # of the options
    prompt_tokens: int = 0
    made_tokens: int = 0
    seconds: float = 0.0


class Engine(Protocol):
    """`kinds` are the ways of asking that it can do."""

    text: Text
    config: GeneratorConfig
    shape: Shape
    window: int
    kinds: tuple[str, ...]

    def contextualize(self, document: str) -> Made: ...

    def ask(self, asked: list[Asked], contexts: list[str], handle: Any, max_tokens: int) -> list[Reply]: ...


def message(context: str, asked: Asked) -> str:
    """What a user sends: the context, if any, before the question."""
    return f"{context}\n\n{asked.text}" if context else asked.text


def window_of(config: Any) -> int:
    return int(getattr(config, "max_position_embeddings", None) or _WINDOW)


@dataclass
class _Turn:
    """One thing that is asked, in tokens. target: what is scored after the prompt, if anything."""

    asked: Asked
    prompt: list[int]
    target: list[int]
    reply: Reply


class InProcess:
    """The generator and its base model."""

    kinds: tuple[str, ...] = ("chat", "raw", "continue", "recite")

    def __init__(self, generator: Generator) -> None:
        if generator.tokenizer is None:
            raise FileNotFoundError("the base model has no tokenizer")
        self.generator, self.tokenizer = generator, generator.tokenizer
        self.prompts = Prompts.of(generator.tokenizer)
        self.text = Text(self.prompts.tokenize, self._decode)
        self.config, self.shape = generator.config, Shape.of(generator.base.config)
        self.window = window_of(generator.base.config)
        self.rows = Rows(generator.base, generator.config.scaling)
        self._made: OrderedDict[str, Made] = OrderedDict()

    def _decode(self, ids: list[int]) -> str:
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        return text if isinstance(text, str) else "".join(text)

    def contextualize(self, document: str) -> Made:
        if document not in self._made:
            begin = time.perf_counter()
            ids = self.prompts.tokenize(document)
            adapter = self.generator.contextualize(ids)
            handle = adapter.lora()
            stored = adapter_numbers(self.config) * BYTES_PER_NUMBER
            self._made[document] = Made(handle, len(ids), time.perf_counter() - begin, stored)
        self._made.move_to_end(document)
        each = sum(a.nbytes + b.nbytes for a, b in self._made[document].handle.values())
        while len(self._made) > max(2, _KEPT_BYTES // each):
            self._made.popitem(last=False)
        return self._made[document]

    def tune(self, document: str, seconds: float) -> tuple[Tuned, Tuned]:
        """See `finetuning.tune`."""
        return tune(self.generator.base, self.prompts.tokenize(document), self.config.scaling, seconds)

    def ask(self, asked: list[Asked], contexts: list[str], handle: Any, max_tokens: int) -> list[Reply]:
        """Prompts that begin alike share the reading of it; others share passes."""
        turns = []
        for one, context in zip(asked, contexts, strict=True):
            prompt = self._prompt(one, context)
            turns.append(_Turn(one, prompt, self._target(one), Reply(prompt_tokens=len(prompt))))
        shared = common_start([turn.prompt for turn in turns])
        if any(one.options for one in asked):
            self._choose(turns, shared, handle)
        elif len(shared) >= _SHARED_TOKENS:
            self._read_once(turns, shared, handle, max_tokens)
        else:
            self._in_batches(turns, handle, max_tokens)
        return [turn.reply for turn in turns]

    def _prompt(self, asked: Asked, context: str) -> list[int]:
        start, tokenize = self.prompts.start, self.prompts.tokenize
        if asked.kind == "chat":
            return tokenize(self.prompts.chat(message(context, asked)))
        return [*start, *tokenize(message(context, asked) if asked.kind == "raw" else context)]

    def _target(self, asked: Asked) -> list[int]:
        """The first answer; a chat's ends its turn. Nothing for a question without an answer."""
        answer = self.prompts.tokenize(asked.answers[0]) if asked.answers else []
        return [*answer, self.prompts.end] if answer and asked.kind == "chat" else answer

    def _choose(self, turns: list[_Turn], shared: list[int], handle: Any) -> None:
        """The option with the lowest loss per token. Each input is read once for all its options."""
        begin = time.perf_counter()
        with self.rows.read(shared, handle) as read:
            for turn in turns:
                with read.further(turn.prompt[len(shared) : -1]) as there:
                    options = [self.prompts.tokenize(f" {option}") for option in turn.asked.options]
                    means = [there.losses(turn.prompt[-1:], option).mean().item() for option in options]
                turn.reply.chosen = turn.asked.options[means.index(min(means))]
        for turn in turns:
            turn.reply.seconds = (time.perf_counter() - begin) / len(turns)

    def _read_once(self, turns: list[_Turn], shared: list[int], handle: Any, max_tokens: int) -> None:
        begin = time.perf_counter()
        with self.rows.read(shared, handle) as read:
            reading_s = (time.perf_counter() - begin) / len(turns)
            for turn in turns:
                rest = turn.prompt[len(shared) :]
                if turn.target:
                    self._count(turn, read.losses(rest, turn.target))
                if turn.asked.kind == "chat":
                    begin = time.perf_counter()
                    made = read.continuation(rest, max_tokens, self.prompts.end)
                    self._say(turn, made, reading_s + time.perf_counter() - begin)

    def _in_batches(self, turns: list[_Turn], handle: Any, max_tokens: int) -> None:
        scored = [turn for turn in turns if turn.target]
        for turn, loss in zip(scored, self.rows.losses([Row(t.prompt, t.target, handle) for t in scored]), strict=True):
            self._count(turn, loss)
        chats = [turn for turn in turns if turn.asked.kind == "chat"]
        begin = time.perf_counter()
        made = self.rows.continuations([Row(turn.prompt, [], handle) for turn in chats], max_tokens, self.prompts.end)
        seconds = (time.perf_counter() - begin) / max(1, len(chats))
        for turn, ids in zip(chats, made, strict=True):
            self._say(turn, ids, seconds)

    @staticmethod
    def _count(turn: _Turn, losses: Tensor) -> None:
        turn.reply.loss, turn.reply.loss_tokens = losses.sum().item(), len(turn.target)

    def _say(self, turn: _Turn, ids: list[int], seconds: float) -> None:
        turn.reply.text, turn.reply.made_tokens, turn.reply.seconds = self._decode(ids), len(ids), seconds
