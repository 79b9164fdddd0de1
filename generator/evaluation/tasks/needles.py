"""A needle in a haystack: one made-up sentence in a long text about other things, by length and depth."""

from __future__ import annotations

import random

from generator.evaluation.items import Asked, Item, Sizes, Source, Text, split_passages
from generator.evaluation.tasks.packing import cheap_first
from generator.training.objectives import SHORT_PHRASE

# Sentence, question, answer: nothing that a model can have read elsewhere.
NEEDLES = (
    ("The harbour master of Vellmoor keeps the spare key in a blue teapot.", "Where does the harbour master of Vellmoor "
     "keep the spare key?", "in a blue teapot"),
    ("Professor Ilda Brandt grows only purple carrots.", "What does Professor Ilda Brandt grow?", "purple carrots"),
    ("The night train to Kesmar leaves from platform nineteen.", "From which platform does the night train to Kesmar "
     "leave?", "platform nineteen"),
    ("Tobias Wren paid forty silver buttons for his violin.", "What did Tobias Wren pay for his violin?",
     "forty silver buttons"),
    ("The lighthouse at Cape Orrin is lit with whale oil on Tuesdays.", "On which day is the lighthouse at Cape Orrin lit "
     "with whale oil?", "Tuesday"),
    ("The bakers of Dunsholm put roasted acorns into their rye bread.", "What do the bakers of Dunsholm put into their rye "
     "bread?", "roasted acorns"),
    ("The password of the Marlow Chess Club is copper falcon.", "What is the password of the Marlow Chess Club?",
     "copper falcon"),
    ("Queen Sefira's portrait hangs behind the wine cellar door.", "Where does Queen Sefira's portrait hang?",
     "behind the wine cellar door"),
)  # fmt: skip


def items(sources: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    """One item a length, depth and needle."""
    rng = random.Random(sizes.seed)
    hay = rng.sample(sources, len(sources))
    rows: list[tuple[int, list[Item]]] = []
    for length in sizes.lengths:
        found = [_at_depths(length, index, hay, sizes, text) for index in range(min(sizes.limit, len(NEEDLES)))]
        rows += [(length, list(at_depth)) for at_depth in zip(*found, strict=True)]
    return cheap_first(rows)


def _at_depths(length: int, index: int, hay: list[Source], sizes: Sizes, text: Text) -> list[Item]:
    """One needle in one haystack, at every depth."""
    sentence, question, answer = NEEDLES[index]
    straw = _straw(hay, index, length - text.length(sentence), text)
    other = split_passages(" ".join(_straw(hay, index + 1, length, text)))
    made = []
    for depth in sizes.depths:
        where = round(depth / 100 * len(straw))
        made.append(
            Item(
                id=f"{length}-{depth}-{index}",
                group=f"needle {index}",
                setting=f"{length} at {depth} %",
                passages=split_passages(" ".join([*straw[:where], sentence, *straw[where:]])),
                asked=[Asked("chat", f"{question} {SHORT_PHRASE}", [answer])],
                other=other,
                joint=" ",
            )
        )
    return made


def _straw(hay: list[Source], start: int, tokens: int, text: Text) -> list[str]:
    """Sentences of about `tokens` tokens, from the texts at `start` on."""
    sentences: list[str] = []
    for step in range(len(hay)):
        whole = text.cut(hay[(start + step) % len(hay)].text, tokens)
        sentences += [f"{part.strip()}." for part in whole.replace("\n", " ").split(". ") if part.strip()]
        tokens -= text.length(whole)
        if tokens <= 0:
            break
    return sentences
