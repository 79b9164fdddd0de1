"""k examples of a task, then inputs whose output is chosen among the options by its loss (MetaICL's form)."""

from __future__ import annotations

import random

from generator.evaluation.items import Asked, Item, Sizes, Text
from generator.evaluation.sources import ExampleSet
from generator.evaluation.tasks.packing import interleaved

# Tokens of an example, at most: long inputs keep their end, where the question stands.
_EXAMPLE_TOKENS = 256


def items(sets: list[ExampleSet], sizes: Sizes, text: Text) -> list[Item]:
    """One item a task and k; a task's demonstrations for k are the first k of those for more."""
    most = max(sizes.shots)
    usable = [one for one in sets if one.options and one.asked and len(one.shown) >= most]
    chosen = random.Random(sizes.seed).sample(usable, len(usable))[: max(2, sizes.limit)]
    if len(chosen) < 2:
        raise ValueError(f"two tasks with {most} demonstrations each are needed; the source has {len(usable)}")
    return interleaved([_at_shots(chosen, shots, sizes, text) for shots in sizes.shots])


def _at_shots(chosen: list[ExampleSet], shots: int, sizes: Sizes, text: Text) -> list[Item]:
    shown = [[f"{as_input(i, text)} {o}" for i, o in _drawn(one, shots, sizes.seed)] for one in chosen]
    return [
        Item(
            id=f"{shots}-{one.name}",
            group=one.name,
            setting=str(shots),
            passages=shown[index],
            asked=[Asked("raw", as_input(i, text), [o], one.options) for i, o in one.asked[: sizes.questions]],
            other=shown[(index + 1) % len(chosen)],
        )
        for index, one in enumerate(chosen[: sizes.limit])
    ]


def _drawn(one: ExampleSet, shots: int, seed: int) -> list[tuple[str, str]]:
    return random.Random(f"{seed}-{one.name}").sample(one.shown, len(one.shown))[:shots]


def as_input(example: str, text: Text) -> str:
    """The prompt of one example, its output left to be said."""
    ids = text.tokenize(example)
    kept = example if len(ids) <= _EXAMPLE_TOKENS else text.decode(ids[-_EXAMPLE_TOKENS:])
    return f"Input: {kept}\nOutput:"
