"""Who reads and answers: the model in this process, or a running service. Both get the same text."""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

from generator.config import GeneratorConfig
from generator.encode import LoraWeights
from generator.evaluation.costs import BYTES_PER_NUMBER, Shape, adapter_numbers
from generator.evaluation.finetuning import Tuned, tune
from generator.evaluation.items import Asked, Text
from generator.evaluation.rows import Row, Rows, common_start
from generator.generator import Generator
from generator.training.objectives import Prompts

# Prompts that share at least so many tokens share their reading too.
_SHARED_TOKENS = 64
# Adapters that are kept: a document's own is soon "another document's".
_KEPT = 4
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
        while len(self._made) > _KEPT:
            self._made.popitem(last=False)
        return self._made[document]

    def tune(self, document: str, seconds: float) -> tuple[Tuned, Tuned]:
        """See `finetuning.tune`."""
        return tune(self.generator.base, self.prompts.tokenize(document), self.config.scaling, seconds)

    def ask(self, asked: list[Asked], contexts: list[str], handle: Any, max_tokens: int) -> list[Reply]:
        prompts = [self._prompt(one, context) for one, context in zip(asked, contexts, strict=True)]
        replies = [Reply(prompt_tokens=len(prompt)) for prompt in prompts]
        self._measure(replies, asked, prompts, handle)
        chats = [i for i, one in enumerate(asked) if one.kind == "chat"]
        if chats:
            begin = time.perf_counter()
            made = self._generate([prompts[i] for i in chats], handle, max_tokens)
            for i, ids in zip(chats, made, strict=True):
                replies[i].text, replies[i].made_tokens = self._decode(ids), len(ids)
                replies[i].seconds = (time.perf_counter() - begin) / len(chats)
        return replies

    def _prompt(self, asked: Asked, context: str) -> list[int]:
        start, tokenize = self.prompts.start, self.prompts.tokenize
        if asked.kind == "chat":
            return tokenize(self.prompts.chat(message(context, asked)))
        return [*start, *tokenize(message(context, asked) if asked.kind == "raw" else context)]

    def _targets(self, asked: Asked) -> list[list[int]]:
        """What is scored after the prompt: every option, or the first answer."""
        if asked.kind == "raw":
            return [self.prompts.tokenize(f" {option}") for option in asked.options]
        ends = [self.prompts.end] if asked.kind == "chat" else []
        return [[*self.prompts.tokenize(answer), *ends] for answer in asked.answers[:1]]

    def _measure(self, replies: list[Reply], asked: list[Asked], prompts: list[list[int]], handle: Any) -> None:
        """Losses of answers and texts; the choice where there are options."""
        if any(one.options for one in asked):
            self._choose(replies, asked, prompts, handle)
            return
        scored = [
            (reply, prompt, self._target(one)) for reply, prompt, one in zip(replies, prompts, asked, strict=True)
        ]
        scored = [(reply, prompt, target) for reply, prompt, target in scored if target]
        losses = self._losses([Row(prompt, target, handle) for _, prompt, target in scored])
        for (reply, _, target), loss in zip(scored, losses, strict=True):
            reply.loss, reply.loss_tokens = loss, len(target)

    def _target(self, asked: Asked) -> list[int]:
        """The first answer; a chat's ends its turn. Nothing for a question without an answer."""
        answer = self.prompts.tokenize(asked.answers[0]) if asked.answers else []
        return [*answer, self.prompts.end] if answer and asked.kind == "chat" else answer

    def _choose(self, replies: list[Reply], asked: list[Asked], prompts: list[list[int]], handle: Any) -> None:
        """The option with the lowest loss per token. Demonstrations are read once, each input once for all its options."""
        begin, shared = time.perf_counter(), common_start(prompts)
        with self.rows.read(shared, handle) as read:
            for reply, one, prompt in zip(replies, asked, prompts, strict=True):
                with read.further(prompt[len(shared) : -1]) as there:
                    options = [self.prompts.tokenize(f" {option}") for option in one.options]
                    means = [there.losses(prompt[-1:], option).mean().item() for option in options]
                reply.chosen = one.options[means.index(min(means))]
        for reply in replies:
            reply.seconds = (time.perf_counter() - begin) / len(asked)

    def _losses(self, rows: list[Row]) -> list[float]:
        shared = common_start([row.prompt for row in rows])
        if len(shared) < _SHARED_TOKENS or len(rows) == 1:
            return [loss.sum().item() for loss in self.rows.losses(rows)]
        with self.rows.read(shared, rows[0].adapter) as read:
            return [read.losses(row.prompt[len(shared) :], row.target).sum().item() for row in rows]

    def _generate(self, prompts: list[list[int]], handle: LoraWeights | None, max_tokens: int) -> list[list[int]]:
        shared = common_start(prompts)
        if len(shared) < _SHARED_TOKENS or len(prompts) == 1:
            return self.rows.continuations(
                [Row(prompt, [], handle) for prompt in prompts], max_tokens, self.prompts.end
            )
        with self.rows.read(shared, handle) as read:
            return [read.continuation(prompt[len(shared) :], max_tokens, self.prompts.end) for prompt in prompts]
