"""Perplexity of a document under its own adapter (reconstruction) and of what follows it (completion): the paper's Table 2."""

from __future__ import annotations

import random
from typing import Literal

from generator.evaluation.items import Asked, Item, Sizes, Source, Text
from generator.evaluation.tasks.packing import interleaved, unrelated

# Tokens that are measured.
SPAN = 256


def completion(sources: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    return interleaved([_items(sources, sizes, text, length, "continue") for length in sizes.lengths])


def reconstruction(sources: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    return interleaved([_items(sources, sizes, text, length, "recite") for length in sizes.lengths])


def _items(
    sources: list[Source], sizes: Sizes, text: Text, length: int, kind: Literal["continue", "recite"]
) -> list[Item]:
    """Texts long enough for this length and the span that follows."""
    chosen: list[tuple[str, list[int]]] = []
    for source in random.Random(sizes.seed).sample(sources, len(sources)):
        ids = text.tokenize(source.text)
        if len(ids) >= length + SPAN:
            chosen.append((source.group, ids))
        if len(chosen) > sizes.limit:
            break
    groups = [group for group, _ in chosen]
    made = []
    for index, (group, ids) in enumerate(chosen[: sizes.limit]):
        start = random.Random(index).randrange(max(1, length - SPAN)) if kind == "recite" else length
        other = chosen[unrelated(groups, index)][1] if len(chosen) > 1 else ids[length:]
        made.append(
            Item(
                id=f"{length}-{index}",
                group=group,
                setting=str(length),
                passages=[text.decode(ids[:length])],
                asked=[Asked(kind, "", [text.decode(ids[start : start + SPAN])])],
                other=[text.decode(other[:length])],
            )
        )
    return made
