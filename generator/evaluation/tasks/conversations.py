"""Questions whose answer was said in an earlier conversation (the paper's Table 1, MSC's form)."""

from __future__ import annotations

import random

from generator.evaluation.items import Asked, Item, Sizes, Source, Text
from generator.evaluation.tasks.packing import unrelated

# Turns that retrieval takes or leaves together.
_TURNS = 4


def items(sources: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    """One item a conversation."""
    asked = [source for source in sources if source.questions]
    chosen = random.Random(sizes.seed).sample(asked, len(asked))[: sizes.limit + 1]
    groups = [source.group for source in chosen]
    return [
        Item(
            id=str(index),
            group=source.group,
            setting="conversation",
            passages=_pieces(source.text),
            asked=[Asked("chat", q.text, q.answers) for q in source.questions[: sizes.questions]],
            other=_pieces(chosen[unrelated(groups, index)].text),
            joint="\n",
        )
        for index, source in enumerate(chosen[: sizes.limit])
    ]


def _pieces(conversation: str) -> list[str]:
    lines = conversation.split("\n")
    return ["\n".join(lines[start : start + _TURNS]) for start in range(0, len(lines), _TURNS)]
