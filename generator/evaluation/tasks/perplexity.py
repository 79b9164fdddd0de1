"""Perplexity of a document under its own adapter (reconstruction) and of what follows it (completion): the paper's Table 2."""

from __future__ import annotations

import random
from collections import defaultdict
from typing import Literal

from generator.evaluation.items import Asked, Item, Sizes, Source, Text
from generator.evaluation.tasks.packing import cheap_first, unrelated

# Tokens that are measured.
SPAN = 256


def completion(sources: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    return cheap_first([(length, _items(sources, sizes, text, length, "continue")) for length in sizes.lengths])


def reconstruction(sources: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    return cheap_first([(length, _items(sources, sizes, text, length, "recite")) for length in sizes.lengths])


def _items(
    sources: list[Source], sizes: Sizes, text: Text, length: int, kind: Literal["continue", "recite"]
) -> list[Item]:
    """The beginnings of texts that are long enough for this length and the span that follows."""
    shuffled = random.Random(sizes.seed).sample(sources, len(sources))
    chosen = _long(shuffled, length + SPAN, sizes.limit + 1, text) or _long(
        _joined(sources), length + SPAN, sizes.limit + 1, text
    )
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


def _long(sources: list[Source], tokens: int, count: int, text: Text) -> list[tuple[str, list[int]]]:
    """(group, token ids) of the first `count` texts with at least `tokens` tokens."""
    found: list[tuple[str, list[int]]] = []
    for source in sources:
        # A token has at least one character: what is too short in characters need not be counted.
        if len(found) < count and len(source.text) >= tokens:
            ids = text.tokenize(source.text)
            if len(ids) >= tokens:
                found.append((source.group, ids))
    return found


def _joined(sources: list[Source]) -> list[Source]:
    """All of a group as one text: chapters become books."""
    texts: dict[str, list[str]] = defaultdict(list)
    for source in sources:
        texts[source.group].append(source.text)
    return [Source(group, "\n\n".join(parts)) for group, parts in texts.items()]
