"""`genadapter eval quality`: a checkpoint's held-out figures with bootstrap intervals over articles, as JSON."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from generator.evaluation import packed
from generator.evaluation.quality import CONDITIONS, Quality, Tally, held_out
from generator.evaluation.statistics import Array, Figure, bootstrap, mean_of
from generator.generator import Generator
from generator.training.data import Passage, load_passages
from generator.training.objectives import Prompts

DOCUMENTS = ("qa-squad", "qa-nq-qed")
CONVERSATIONS = ("qa-personachat",)
# Shortest and longest passage in tokens; a conversation is one document, whatever its length.
_LENGTHS = {"qa-personachat": (60, 1024)}
_LENGTH = (60, 360)
# Conversations are twice as long, and their answers several sentences.
_CONVERSATIONS_SHARE = 4
_CONVERSATION_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class Wanted:
    """What is measured."""

    split: str = "test"
    limit: int = 200  # documents; a quarter as many conversations
    seed: int = 0
    sources: tuple[str, ...] = DOCUMENTS + CONVERSATIONS
    questions: int = 2  # of a passage
    generate: bool = True  # answers, for F1 and exact match
    progress: bool = field(default=False, compare=False)


def measure(generator: Generator, data: Path, wanted: Wanted) -> dict[str, Any]:
    """Losses, answers and their intervals. Raises FileNotFoundError."""
    if generator.tokenizer is None:
        raise FileNotFoundError("the base model has no tokenizer")
    report: dict[str, Any] = {
        "checkpoint": generator.fingerprint,
        "base_model": generator.config.base_model,
        "dtype": str(generator.base.dtype).removeprefix("torch."),
        "split": wanted.split,
        "seed": wanted.seed,
    }
    documents = [source for source in wanted.sources if source not in CONVERSATIONS]
    if documents:
        report |= _section(generator, data, wanted, documents, wanted.limit, pack=True)
    conversations = [source for source in wanted.sources if source in CONVERSATIONS]
    if conversations:
        limit = max(2, wanted.limit // _CONVERSATIONS_SHARE) if documents else wanted.limit
        report["conversations"] = _section(generator, data, wanted, conversations, limit, pack=False)
    return report


def _section(
    generator: Generator, data: Path, wanted: Wanted, sources: list[str], limit: int, pack: bool
) -> dict[str, Any]:
    tokenizer: Any = generator.tokenizer
    prompts = Prompts.of(tokenizer)
    pool = [
        p for s in sources for p in load_passages(data, s, wanted.split, prompts.tokenize, _LENGTHS.get(s, _LENGTH))
    ]
    chosen = held_out(pool, limit, wanted.seed)
    if len(chosen) < 2:
        raise FileNotFoundError(f"{', '.join(sources)} have no two documents in the split {wanted.split}")
    decode = (lambda ids: tokenizer.decode(ids, skip_special_tokens=True)) if wanted.generate else None
    scaling = generator.config.scaling
    quality = Quality(generator.base, prompts, chosen, scaling, wanted.questions, wanted.progress, decode)
    if not pack:
        quality.scorer.answer_tokens = _CONVERSATION_ANSWER_TOKENS
    tally = quality.measure(lambda ids: generator.contextualize(ids).lora())
    if pack:
        packed.measure(quality, tally, generator, pool, wanted.seed)
    return {"sources": sources, "documents": len(chosen), **summarize(tally, chosen, wanted.seed)}


def summarize(tally: Tally, passages: list[Passage], seed: int = 0) -> dict[str, Any]:
    """`losses` (nats per token) by text and condition; `answers` (F1, exact match) and `summary` with intervals."""
    losses: dict[str, dict[str, float]] = defaultdict(dict)
    scores: dict[str, Figure] = {}
    for text, condition in sorted(tally.sums):
        if text.startswith("answers "):
            scores[f"{text.removeprefix('answers ')}/{condition}"] = _mean(text, condition)
        else:
            losses[text][condition] = round(tally.mean(text, condition), 4)
    questions = sum(count for _, count in tally.sums.get(("answers f1", "own"), []))
    titles = [passage.title for passage in passages]
    answers = bootstrap(tally.sums, titles, scores, seed)
    return {
        "questions": questions,
        "losses": dict(losses),
        "answers": answers,
        "summary": bootstrap(tally.sums, titles, _figures(tally), seed),
    }


def _figures(tally: Tally) -> dict[str, Figure]:
    figures = {
        "knowledge_recovered": _recovered("own", "other"),
        "harm_text": _difference(("unrelated text", "other"), ("unrelated text", "closed")),
        "harm_answers": _difference(("answers", "other"), ("answers", "closed")),
        "completion_gain": _difference(("completion", "closed"), ("completion", "own")),
    }
    if ("answers f1", "own") in tally.sums:
        figures["f1_gain"] = _difference(("answers f1", "own"), ("answers f1", "closed"))
        figures["f1_harm"] = _difference(("answers f1", "closed"), ("answers f1", "other"))
    if ("answers", packed.OWN) in tally.sums:
        figures["knowledge_recovered_packed"] = _recovered(packed.OWN, packed.OTHER)
    return figures


def _mean(text: str, condition: str) -> Figure:
    return lambda totals: mean_of(totals[text, condition])


def _difference(more: tuple[str, str], less: tuple[str, str]) -> Figure:
    return lambda totals: mean_of(totals[more]) - mean_of(totals[less])


def _recovered(own: str, other: str) -> Figure:
    def figure(totals: Mapping[Any, Array]) -> Array:
        known = mean_of(totals["answers", other]) - mean_of(totals["answers", own])
        gap: Array = known / (mean_of(totals["answers", "closed"]) - mean_of(totals["answers", "prompt"]))
        return gap

    return figure


def table(report: dict[str, Any]) -> str:
    """The figures for the terminal."""
    lines = _table(report) if "losses" in report else []
    if "conversations" in report:
        lines += ["", "conversations", *_table(report["conversations"])]
    return "\n".join(lines)


def _table(section: dict[str, Any]) -> list[str]:
    columns = [*CONDITIONS, *(name for name in (packed.OWN, packed.OTHER) if name in section["losses"]["answers"])]
    lines = [f"{'loss per token':<28}" + "".join(f"{name:>14}" for name in columns)]
    for text, row in section["losses"].items():
        lines.append(f"{text:<28}" + "".join(f"{row[n]:>14.3f}" if n in row else f"{'':>14}" for n in columns))
    for name in ("f1", "exact match"):
        values = {c: section["answers"].get(f"{name}/{c}") for c in columns}
        if any(values.values()):
            cells = (f"{100 * v['mean']:>14.1f}" if v else f"{'':>14}" for v in values.values())
            lines.append(f"{f'answers: {name}, %':<28}" + "".join(cells))
    lines.append("")
    for name, value in section["summary"].items():
        lines.append(f"{name:<28}{value['mean']:>14.3f}   95 % interval {value['low']:.3f} .. {value['high']:.3f}")
    return lines
