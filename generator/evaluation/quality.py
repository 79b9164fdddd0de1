"""The small, quick measure that training uses: loss per token on held-out documents under four conditions.

    closed   no adapter            prompt   the document in the prompt
    own      its adapter           other    another document's adapter

on three texts: answers to questions about the document, the document itself (reconstruction), and its second half given the
first (completion). "Knowledge recovered" = (other - own) / (closed - prompt) on answers; "harm" = other - closed.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from generator.encode import attached
from generator.training.data import Passage
from generator.training.objectives import Prompts

Weights = dict[str, tuple[Tensor, Tensor]]
# Passages between a document and the one whose adapter serves as "another": far enough to be another article.
_SHIFT = 7


@dataclass
class Tally:
    """Summed losses and tokens by (text, condition), for each passage."""

    sums: dict[tuple[str, str], list[tuple[float, int]]] = field(default_factory=lambda: defaultdict(list))

    def mean(self, text: str, condition: str) -> float:
        """Nats per token."""
        parts = self.sums[text, condition]
        return sum(p[0] for p in parts) / max(1, sum(p[1] for p in parts))

    def report(self) -> dict[str, float]:
        result = {f"{text}/{condition}": self.mean(text, condition) for text, condition in sorted(self.sums)}
        gap = self.mean("answers", "closed") - self.mean("answers", "prompt")
        result["knowledge_recovered"] = (
            (self.mean("answers", "other") - self.mean("answers", "own")) / gap if gap else 0.0
        )
        result["harm_text"] = self.mean("reconstruction", "other") - self.mean("reconstruction", "closed")
        result["harm_answers"] = self.mean("answers", "other") - self.mean("answers", "closed")
        return result


class Quality:
    """Measures one set of held-out passages."""

    def __init__(
        self, base: Any, prompts: Prompts, passages: list[Passage], scaling: float, questions: int = 3
    ) -> None:
        self.base, self.prompts, self.passages, self.scaling, self.questions = (
            base,
            prompts,
            passages,
            scaling,
            questions,
        )
        self.separator = prompts.tokenize("\n\n")
        self.device = next(base.parameters()).device
        self._frozen: Tally | None = None

    @torch.inference_mode()
    def measure(self, adapter: Callable[[list[int]], Weights]) -> Tally:
        """adapter: token ids of a context -> the LoRA weights of its adapter."""
        tally = Tally()
        frozen = self._frozen or Tally()
        whole = [adapter(p.ids) for p in self.passages]
        half = [adapter(p.ids[: len(p.ids) // 2]) for p in self.passages]
        for index, passage in enumerate(self.passages):
            other = (index + _SHIFT) % len(self.passages)
            for condition, full, first in (("own", whole[index], half[index]), ("other", whole[other], half[other])):
                with attached(self.base, full, self.scaling):
                    self._record(tally, "answers", condition, self._answers(passage, []))
                    self._record(tally, "reconstruction", condition, [(self.prompts.start, passage.ids)])
                with attached(self.base, first, self.scaling):
                    self._record(tally, "completion", condition, [self._second_half(passage, with_first=False)])
            if self._frozen is None:
                self._record(frozen, "answers", "closed", self._answers(passage, []))
                self._record(frozen, "answers", "prompt", self._answers(passage, passage.ids))
                self._record(frozen, "reconstruction", "closed", [(self.prompts.start, passage.ids)])
                self._record(frozen, "completion", "closed", [self._second_half(passage, with_first=False)])
                self._record(frozen, "completion", "prompt", [self._second_half(passage, with_first=True)])
        self._frozen = frozen
        tally.sums.update(frozen.sums)
        return tally

    def _answers(self, passage: Passage, context: list[int]) -> list[tuple[list[int], list[int]]]:
        rows = []
        for question in passage.questions[: self.questions]:
            prompt, target = self.prompts.question(question, "phrase", context)
            rows.append((prompt, target))
        return rows

    def _second_half(self, passage: Passage, with_first: bool) -> tuple[list[int], list[int]]:
        middle = len(passage.ids) // 2
        return [*self.prompts.start, *(passage.ids[:middle] if with_first else [])], passage.ids[middle:]

    def _record(self, tally: Tally, text: str, condition: str, rows: list[tuple[list[int], list[int]]]) -> None:
        for prompt, target in rows:
            loss = score(self.base, prompt, target, self.device)
            tally.sums[text, condition].append((loss, len(target)))


def score(base: Any, prompt: list[int], target: list[int], device: torch.device) -> float:
    """Summed next-token loss (nats) of `target` after `prompt`."""
    ids = torch.tensor([prompt + target], device=device)
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
