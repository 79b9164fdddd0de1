"""`genadapter eval quality`: a checkpoint's held-out losses with bootstrap intervals over articles, as JSON."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from os import PathLike
from pathlib import Path
from typing import Any

from generator.evaluation.quality import Quality, Tally, held_out
from generator.generator import load_generator
from generator.training.data import Passage, load_passages
from generator.training.objectives import Prompts

SOURCES = ("qa-squad", "qa-nq-qed")
_RESAMPLES = 1000
_QUESTIONS = 2  # of a passage


def measure(checkpoint: str | PathLike[str], data: Path, split: str, limit: int, progress: bool) -> dict[str, Any]:
    """Losses of the four conditions on `limit` passages. Raises FileNotFoundError, `CheckpointError`."""
    generator = load_generator(checkpoint)
    if generator.tokenizer is None:
        raise FileNotFoundError("the base model has no tokenizer")
    prompts = Prompts.of(generator.tokenizer)
    passages = [p for source in SOURCES for p in load_passages(data, source, split, prompts.tokenize)]
    chosen = held_out(passages, limit)
    quality = Quality(generator.base, prompts, chosen, generator.config.scaling, _QUESTIONS, progress)
    tally = quality.measure(lambda ids: generator.contextualize(ids).lora())
    return {
        "checkpoint": generator.fingerprint,
        "base_model": generator.config.base_model,
        "split": split,
        "documents": len(chosen),
        "losses": _losses(tally),
        "summary": bootstrap(tally, chosen),
    }


def _losses(tally: Tally) -> dict[str, dict[str, float]]:
    losses: dict[str, dict[str, float]] = defaultdict(dict)
    for text, condition in sorted(tally.sums):
        losses[text][condition] = round(tally.mean(text, condition), 4)
    return dict(losses)


def bootstrap(tally: Tally, passages: list[Passage], seed: int = 0) -> dict[str, dict[str, float]]:
    """Each summary figure with its 95 % interval: articles drawn with replacement."""
    by_title: dict[str, list[int]] = defaultdict(list)
    for index, passage in enumerate(passages):
        by_title[passage.title].append(index)
    titles, rng = sorted(by_title), random.Random(seed)
    figures: dict[str, Callable[[Tally], float]] = {
        "knowledge_recovered": lambda t: t.knowledge_recovered,
        "harm_text": lambda t: t.mean("unrelated text", "other") - t.mean("unrelated text", "closed"),
        "harm_answers": lambda t: t.mean("answers", "other") - t.mean("answers", "closed"),
        "completion_gain": lambda t: t.mean("completion", "closed") - t.mean("completion", "own"),
    }
    samples: dict[str, list[float]] = defaultdict(list)
    for _ in range(_RESAMPLES):
        drawn = tally.subset([i for title in rng.choices(titles, k=len(titles)) for i in by_title[title]])
        for name, figure in figures.items():
            samples[name].append(figure(drawn))
    return {
        name: {
            "mean": round(figure(tally), 4),
            "low": round(sorted(samples[name])[int(0.025 * _RESAMPLES)], 4),
            "high": round(sorted(samples[name])[int(0.975 * _RESAMPLES)], 4),
        }
        for name, figure in figures.items()
    }
