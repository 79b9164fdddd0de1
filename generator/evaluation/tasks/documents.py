"""Question answering with the passage in the context, packed with passages of other articles (the paper's Table 5)."""

from __future__ import annotations

import random

from generator.evaluation.items import Asked, Item, Sizes, Source, Text
from generator.evaluation.tasks.packing import cheap_first, halves, packed, unrelated
from generator.training.objectives import SHORT_PHRASE


def items(sources: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    """One item a passage and length: the same passages at every length."""
    asked, fillers = halves([source for source in sources if source.text], sizes.seed)
    # A passage must leave room for a distractor in the shortest document.
    fitting = [s for s in asked if s.questions and text.length(s.text) <= 0.9 * min(sizes.lengths)]
    chosen = fitting[: sizes.limit + 1]  # one more: the last one's "another document"
    return cheap_first([(length, _at_length(chosen, fillers, length, sizes, text)) for length in sizes.lengths])


def _at_length(chosen: list[Source], fillers: list[Source], length: int, sizes: Sizes, text: Text) -> list[Item]:
    documents = [
        packed(s.text, fillers, length, text, random.Random(f"{sizes.seed}-{length}-{i}")) for i, s in enumerate(chosen)
    ]
    groups = [source.group for source in chosen]
    return [
        Item(
            id=f"{length}-{index}",
            group=source.group,
            setting=str(length),
            passages=documents[index],
            asked=[Asked("chat", f"{q.text} {SHORT_PHRASE}", q.answers) for q in source.questions[: sizes.questions]],
            other=documents[unrelated(groups, index)],
        )
        for index, source in enumerate(chosen[: sizes.limit])
    ]
