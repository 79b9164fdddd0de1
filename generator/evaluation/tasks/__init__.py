"""The tasks, one a file: each turns sources into items, and says how answers are counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from generator.evaluation.items import Item, Sizes, Source, Text
from generator.evaluation.sources import ExampleSet
from generator.evaluation.tasks import conversations, demonstrations, documents, needles, perplexity

CLOSED, PROMPT, CUT, RETRIEVAL = "closed", "prompt", "prompt, cut", "retrieval"
OWN, OTHER, TUNED, CONVERGED = "own adapter", "other adapter", "LoRA, same time", "LoRA, converged"


@dataclass(frozen=True)
class Task:
    """`items` gives them in an order that any limit of time may cut; `metrics` name columns of the report."""

    name: str
    title: str
    source: str  # where it comes from unless another is named
    items: Callable[[list[Source], Sizes, Text], list[Item]] | Callable[[list[ExampleSet], Sizes, Text], list[Item]]
    metrics: tuple[str, ...]
    methods: tuple[str, ...]
    from_examples: bool = False
    answer_tokens: int = 24
    share: int = 1  # of a run's time, beside the other tasks'
    costs: bool = (
        True  # are told; a needle costs what any document of its length does, and a perplexity is nobody's request
    )


_ASKING = (CLOSED, PROMPT, CUT, RETRIEVAL, OWN, OTHER)

TASKS = {
    task.name: task
    for task in (
        Task(
            "documents",
            "Questions about a passage packed with distractors, by tokens",
            "qa-squad",
            documents.items,
            ("F1", "exact", "loss"),
            (*_ASKING, TUNED, CONVERGED),
            share=4,
        ),
        Task(
            "conversations",
            "Questions about what was said in a conversation",
            "qa-personachat",
            conversations.items,
            ("F1", "loss"),
            (*_ASKING, TUNED, CONVERGED),
            answer_tokens=64,
            share=2,
        ),
        Task(
            "demonstrations",
            "Choosing the label after k demonstrations",
            "qa-pubmedqa+qa-evalonly-bbh",
            demonstrations.items,
            ("accuracy", "macro F1"),
            _ASKING,
            from_examples=True,
            share=2,
        ),
        Task(
            "needles",
            "A sentence in a haystack, by tokens and depth",
            "corpus-openstax",
            needles.items,
            ("found", "F1", "loss"),
            _ASKING,
            share=2,
            costs=False,
        ),
        Task(
            "completion",
            "Perplexity of what follows a document, by tokens",
            "corpus-books",
            perplexity.completion,
            ("perplexity",),
            (CLOSED, PROMPT, OWN, OTHER),
            costs=False,
        ),
        Task(
            "reconstruction",
            "Perplexity of the document itself, by tokens",
            "corpus-books",
            perplexity.reconstruction,
            ("perplexity",),
            (CLOSED, OWN, OTHER),
            costs=False,
        ),
    )
}
