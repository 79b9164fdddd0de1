"""Documents of a wanted length: a passage among unrelated ones."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TypeVar

from generator.evaluation.items import Source, Text

T = TypeVar("T")
_JOINT_TOKENS = 1  # a blank line
_USUAL_TOKENS = 4096


def halves(sources: list[Source], seed: int) -> tuple[list[Source], list[Source]]:
    """Sources to ask about, and sources to fill documents with: no group is in both. Shuffled; the same for any limit."""
    rng = random.Random(seed)
    groups = sorted({source.group for source in sources})
    rng.shuffle(groups)
    first = set(groups[: max(2, (len(groups) + 1) // 2)])
    shuffled = rng.sample(sources, len(sources))
    return [s for s in shuffled if s.group in first], [s for s in shuffled if s.group not in first]


def packed(passage: str, fillers: list[Source], tokens: int, text: Text, rng: random.Random) -> list[str]:
    """The passage and so many fillers that all together have `tokens` tokens, in random order; the last filler is cut."""
    passages, room = [passage], tokens - text.length(passage)
    for filler in rng.sample(fillers, len(fillers)):
        room -= _JOINT_TOKENS
        if room <= 0:
            break
        passages.append(text.cut(filler.text, room))
        room -= text.length(passages[-1])
    rng.shuffle(passages)
    return passages


def unrelated(groups: Sequence[str], index: int) -> int:
    """The next of another group: whose document is "another document"."""
    later = ((index + step) % len(groups) for step in range(1, len(groups)))
    return next((i for i in later if groups[i] != groups[index]), (index + 1) % len(groups))


def interleaved(rows: list[list[T]]) -> list[T]:
    """The first of each row, then the second of each: a run that is cut short has as many of every setting."""
    marker = object()
    mixed = chain.from_iterable(zip_longest(*rows, fillvalue=marker))
    return [item for item in mixed if item is not marker]  # type: ignore[misc]


def cheap_first(rows: list[tuple[int, list[T]]]) -> list[T]:
    """Items of rows of (tokens of a document, items) in the order of what they cost: up to `_USUAL_TOKENS` like `interleaved`,
    beyond that one at half the pace for each doubling, so that a run that is cut short has spent as much on every length."""
    placed = [
        ((index + 0.5) * max(1.0, tokens / _USUAL_TOKENS), position, item)
        for position, (tokens, row) in enumerate(rows)
        for index, item in enumerate(row)
    ]
    return [item for _, _, item in sorted(placed, key=lambda entry: entry[:2])]
