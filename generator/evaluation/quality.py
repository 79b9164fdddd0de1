"""The measure that training and `genadapter eval quality` use: held-out documents under four conditions.

    closed   no adapter            prompt   the document in the prompt
    own      its adapter           other    another document's adapter

Loss per token on three texts: answers to questions about the document, the document itself (reconstruction), and its second
half given the first (completion). "Knowledge recovered" = (other - own) / (closed - prompt) on answers; "harm" = other - closed.
With a tokenizer's `decode`, answers are generated too: token F1 and exact match, as SQuAD counts them.
"""

from __future__ import annotations

import random
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

from generator.encode import LoraWeights
from generator.evaluation.answers import exact_match, token_f1
from generator.evaluation.rows import Row, Rows, common_start
from generator.training.data import Passage, Question
from generator.training.objectives import Prompts

T = TypeVar("T")
AdapterOf = Callable[[list[int]], LoraWeights]

CONDITIONS = ("closed", "prompt", "own", "other")
# Passages between a document and the one whose adapter serves as "another", at least.
_SHIFT = 7
# Passages whose rows share passes; so many adapters, and _SHIFT more, are held at once.
_TOGETHER = 8
# The longest generated answer.
ANSWER_TOKENS = 24


@dataclass
class Tally:
    """For each text and condition: (sum, count) of every passage. Losses are summed in nats and counted in tokens."""

    sums: dict[tuple[str, str], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def mean(self, text: str, condition: str) -> float:
        """Nats per token; of F1 and exact match the mean over questions."""
        parts = self.sums[text, condition]
        return sum(total for total, _ in parts) / max(1, sum(count for _, count in parts))

    @property
    def knowledge_recovered(self) -> float:
        """(other - own) / (closed - prompt) on answers."""
        gap = self.mean("answers", "closed") - self.mean("answers", "prompt")
        return (self.mean("answers", "other") - self.mean("answers", "own")) / gap if gap else 0.0

    def report(self) -> dict[str, float]:
        result = {f"{text}/{condition}": self.mean(text, condition) for text, condition in sorted(self.sums)}
        result["knowledge_recovered"] = self.knowledge_recovered
        return result


@dataclass
class Cell:
    """Rows of one passage, and the (text, condition, first token) of the tally that their losses belong to."""

    entries: list[tuple[str, str, int]]
    rows: list[Row]
    questions: list[Question] = field(default_factory=list)  # what the rows ask, if they ask
    in_prompt: bool = False  # the rows begin with the document: it is read once for all of them


@dataclass
class Scorer:
    """Fills tallies: losses of every cell; generated answers of those that ask, where `decode` (ids -> text) is given."""

    rows: Rows
    end: int
    decode: Callable[[list[int]], str] | None = None
    answer_tokens: int = ANSWER_TOKENS

    def record(self, tally: Tally, cells: list[Cell]) -> None:
        for cell in cells:
            if cell.in_prompt:
                self._read_and_record(tally, cell)
        rest = [cell for cell in cells if not cell.in_prompt]
        losses = iter(self.rows.losses([row for cell in rest for row in cell.rows]))
        for cell in rest:
            _count_losses(tally, cell, [next(losses) for _ in cell.rows])
        if self.decode is not None:
            asking = [cell for cell in rest if cell.questions]
            prompts = [Row(row.prompt, [], row.adapter) for cell in asking for row in cell.rows]
            texts = map(self.decode, self.rows.continuations(prompts, self.answer_tokens, self.end))
            for cell in asking:
                _count_answers(tally, cell, [next(texts) for _ in cell.rows])

    def _read_and_record(self, tally: Tally, cell: Cell) -> None:
        start = common_start([row.prompt for row in cell.rows])
        rests = [row.prompt[len(start) :] for row in cell.rows]
        with self.rows.read(start, cell.rows[0].adapter) as read:
            _count_losses(tally, cell, [read.losses(p, row.target) for p, row in zip(rests, cell.rows, strict=True)])
            if self.decode is not None:
                made = [read.continuation(prompt, self.answer_tokens, self.end) for prompt in rests]
                _count_answers(tally, cell, [self.decode(ids) for ids in made])


def _count_losses(tally: Tally, cell: Cell, losses: list[Tensor]) -> None:
    for text, condition, skip in cell.entries:
        total = sum(loss[skip:].sum().item() for loss in losses)
        tally.sums[text, condition].append((total, sum(len(loss) - skip for loss in losses)))


def _count_answers(tally: Tally, cell: Cell, texts: list[str]) -> None:
    pairs = [(text, question.answers) for text, question in zip(texts, cell.questions, strict=True)]
    for text, condition, _ in cell.entries:
        for name, measure in (("f1", token_f1), ("exact match", exact_match)):
            score = sum(measure(answer, gold) for answer, gold in pairs)
            tally.sums[f"{text} {name}", condition].append((score, len(pairs)))


class Quality:
    """Measures one set of held-out passages. What no adapter touches is measured once."""

    def __init__(
        self,
        base: Any,
        prompts: Prompts,
        passages: list[Passage],
        scaling: float,
        questions: int = 2,
        progress: bool = False,
        decode: Callable[[list[int]], str] | None = None,
    ) -> None:
        """questions: of a passage, at most; decode: token ids -> text, to have answers generated as well."""
        self.prompts, self.passages, self.questions, self.progress = prompts, passages, questions, progress
        self.scorer = Scorer(Rows(base, scaling), prompts.end, decode)
        self._frozen: Tally | None = None

    @torch.inference_mode()
    def measure(self, adapter: AdapterOf) -> Tally:
        """adapter: token ids of a context -> the LoRA weights of its adapter."""
        tally, whole = Tally(), _Recent(adapter, _SHIFT + 2 * _TOGETHER)
        for indices in self._groups("with adapters"):
            cells = []
            for index in indices:
                passage, another = self.passages[index], self.passages[another_title(self.passages, index)]
                cells += self._own(passage, whole(passage.ids), adapter(passage.ids[: len(passage.ids) // 2]))
                cells += self._other(passage, whole(another.ids))
            self.scorer.record(tally, cells)
        self._frozen = self._frozen or self._measure_frozen()
        tally.sums.update(self._frozen.sums)
        return tally

    def _own(self, passage: Passage, whole: LoraWeights, half: LoraWeights) -> list[Cell]:
        middle = len(passage.ids) // 2
        return [
            self.asked("own", passage, whole),
            Cell([("reconstruction", "own", 0)], [Row(self.prompts.start, passage.ids, whole)]),
            Cell([("completion", "own", 0)], [Row(self.prompts.start, passage.ids[middle:], half)]),
        ]

    def _other(self, passage: Passage, another: LoraWeights) -> list[Cell]:
        """Another document's adapter: questions and text that have nothing to do with it."""
        text = Cell([("unrelated text", "other", 0)], [Row(self.prompts.start, passage.ids, another)])
        return [self.asked("other", passage, another), text]

    def _measure_frozen(self) -> Tally:
        tally = Tally()
        for indices in self._groups("without"):
            cells = []
            for passage in (self.passages[index] for index in indices):
                middle = len(passage.ids) // 2
                # One reading of the passage says three things: its second half is read after its first.
                entries = [
                    ("reconstruction", "closed", 0),
                    ("unrelated text", "closed", 0),
                    ("completion", "prompt", middle),
                ]
                cells += [
                    self.asked("closed", passage),
                    self.asked("prompt", passage, context=passage.ids),
                    Cell(entries, [Row(self.prompts.start, passage.ids)]),
                    Cell([("completion", "closed", 0)], [Row(self.prompts.start, passage.ids[middle:])]),
                ]
            self.scorer.record(tally, cells)
        return tally

    def asked(
        self, condition: str, passage: Passage, adapter: LoraWeights | None = None, context: list[int] | None = None
    ) -> Cell:
        """The passage's questions, under one condition."""
        questions = passage.questions[: self.questions]
        pairs = [self.prompts.question(question, "phrase", context) for question in questions]
        rows = [Row(prompt, target, adapter) for prompt, target in pairs]
        return Cell([("answers", condition, 0)], rows, questions, in_prompt=bool(context and rows))

    def _groups(self, what: str) -> Iterable[range]:
        starts = range(0, len(self.passages), _TOGETHER)
        return shown([range(i, min(i + _TOGETHER, len(self.passages))) for i in starts], what, self.progress)


class _Recent:
    """An adapter is made once for a document that is "own" and soon "another": the latest `size` are kept."""

    def __init__(self, adapter: AdapterOf, size: int) -> None:
        self.adapter, self.size = adapter, size
        self._made: OrderedDict[tuple[int, ...], LoraWeights] = OrderedDict()

    def __call__(self, ids: list[int]) -> LoraWeights:
        key = tuple(ids)
        made = self._made.pop(key, None)
        self._made[key] = self.adapter(ids) if made is None else made
        if len(self._made) > self.size:
            self._made.popitem(last=False)
        return self._made[key]


def another_title(passages: list[Passage], index: int) -> int:
    """The passage whose adapter is "another document's": the next of another article (or merely another passage)."""
    candidates = [(index + shift) % len(passages) for shift in range(_SHIFT, _SHIFT + len(passages))]
    return next((i for i in candidates if passages[i].title != passages[index].title), candidates[0])


def shown(items: list[T], what: str, progress: bool) -> Iterable[T]:
    """The items, with their progress on stderr if wanted: a bar on a terminal, ten lines in a log."""
    if not progress:
        return items
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, description=what, console=console) if console.is_terminal else _logged(items, what)


def _logged(items: list[T], what: str) -> Iterator[T]:
    for done, item in enumerate(items, 1):
        yield item
        tenths = 10 * done // len(items)
        if tenths > 10 * (done - 1) // len(items):
            print(f"{what}: {10 * tenths} %", file=sys.stderr, flush=True)


def held_out(passages: list[Passage], count: int, seed: int = 0, per_title: int = 6, least: int = 1) -> list[Passage]:
    """A fixed sample: at most `per_title` passages of an article, those with at least `least` questions."""
    rng = random.Random(seed)
    shuffled = rng.sample(passages, len(passages))
    taken: dict[str, int] = defaultdict(int)
    chosen = []
    for passage in shuffled:
        if taken[passage.title] < per_title and len(passage.questions) >= least:
            taken[passage.title] += 1
            chosen.append(passage)
    return chosen[:count]
