"""The small, quick measure that training uses: loss per token on held-out documents under four conditions.

    closed   no adapter            prompt   the document in the prompt
    own      its adapter           other    another document's adapter

on three texts: answers to questions about the document, the document itself (reconstruction), and its second half given the
first (completion). "Knowledge recovered" = (other - own) / (closed - prompt) on answers; "harm" = other - closed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch.nn import functional as F

from generator.encode import LoraWeights, attached
from generator.training.data import Passage
from generator.training.objectives import Prompts

T = TypeVar("T")
# Passages between a document and the one whose adapter serves as "another": far enough to be another article.
_SHIFT = 7


@dataclass
class Tally:
    """Summed losses (nats) and tokens of each passage, by text and condition."""

    sums: dict[tuple[str, str], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def mean(self, text: str, condition: str) -> float:
        """Nats per token."""
        parts = self.sums[text, condition]
        return sum(loss for loss, _ in parts) / max(1, sum(count for _, count in parts))

    @property
    def knowledge_recovered(self) -> float:
        """(other - own) / (closed - prompt) on answers."""
        gap = self.mean("answers", "closed") - self.mean("answers", "prompt")
        return (self.mean("answers", "other") - self.mean("answers", "own")) / gap if gap else 0.0

    def subset(self, passages: list[int]) -> Tally:
        """Of these passages alone (one that is named twice counts twice)."""
        return Tally({key: [parts[i] for i in passages] for key, parts in self.sums.items()})

    def report(self) -> dict[str, float]:
        result = {f"{text}/{condition}": self.mean(text, condition) for text, condition in sorted(self.sums)}
        result["knowledge_recovered"] = self.knowledge_recovered
        return result


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
    ) -> None:
        self.base, self.prompts, self.passages, self.scaling = base, prompts, passages, scaling
        self.questions, self.progress = questions, progress
        self._frozen: Tally | None = None

    @torch.inference_mode()
    def measure(self, adapter: Callable[[list[int]], LoraWeights]) -> Tally:
        """adapter: token ids of a context -> the LoRA weights of its adapter."""
        tally = Tally()
        shifted = [(index + _SHIFT) % len(self.passages) for index in range(len(self.passages))]
        for passage, other in self._shown(zip(self.passages, shifted, strict=True)):
            another = self.passages[other]
            self._measure_own(tally, passage, adapter(passage.ids), adapter(passage.ids[: len(passage.ids) // 2]))
            # Another document's adapter: questions and text that have nothing to do with it.
            with attached(self.base, adapter(another.ids), self.scaling):
                self._record(tally, "answers", "other", self._answers(passage, []))
                self._record(tally, "unrelated text", "other", [(self.prompts.start, passage.ids)])
        self._frozen = self._frozen or self._measure_frozen()
        tally.sums.update(self._frozen.sums)
        return tally

    def _measure_own(self, tally: Tally, passage: Passage, whole: LoraWeights, half: LoraWeights) -> None:
        with attached(self.base, whole, self.scaling):
            self._record(tally, "answers", "own", self._answers(passage, []))
            self._record(tally, "reconstruction", "own", [(self.prompts.start, passage.ids)])
        with attached(self.base, half, self.scaling):
            self._record(tally, "completion", "own", [self._second_half(passage, with_first=False)])

    def _measure_frozen(self) -> Tally:
        tally = Tally()
        for passage in self._shown(self.passages):
            self._record(tally, "answers", "closed", self._answers(passage, []))
            self._record(tally, "answers", "prompt", self._answers(passage, passage.ids))
            self._record(tally, "reconstruction", "closed", [(self.prompts.start, passage.ids)])
            self._record(tally, "completion", "closed", [self._second_half(passage, with_first=False)])
            self._record(tally, "completion", "prompt", [self._second_half(passage, with_first=True)])
        tally.sums["unrelated text", "closed"] = tally.sums["reconstruction", "closed"]
        return tally

    def _shown(self, passages: Iterable[T]) -> Iterable[T]:
        if not self.progress:
            return passages
        from rich.progress import track

        return track(list(passages), description="documents")

    def _answers(self, passage: Passage, context: list[int]) -> list[tuple[list[int], list[int]]]:
        return [self.prompts.question(q, "phrase", context) for q in passage.questions[: self.questions]]

    def _second_half(self, passage: Passage, with_first: bool) -> tuple[list[int], list[int]]:
        middle = len(passage.ids) // 2
        return [*self.prompts.start, *(passage.ids[:middle] if with_first else [])], passage.ids[middle:]

    def _record(self, tally: Tally, text: str, condition: str, rows: list[tuple[list[int], list[int]]]) -> None:
        loss = sum(score(self.base, prompt, target) for prompt, target in rows)
        tally.sums[text, condition].append((loss, sum(len(target) for _, target in rows)))


def score(base: Any, prompt: list[int], target: list[int]) -> float:
    """Summed next-token loss (nats) of `target` after `prompt`."""
    ids = torch.tensor([prompt + target], device=base.device)
    states = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 : -1]
    logits = base.get_output_embeddings()(states).float()
    return F.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum").item()


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
