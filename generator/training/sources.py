"""What `[data.sources]` may name: a file of the data folder, a public set, or demonstrations of tasks.

- `qa-squad`: SOURCE.jsonl(.zst) in the data folder, with its splits;
- `squad:/data/train-v1.1.json`: SQuAD's file, a twentieth of its articles held out;
- `narrativeqa:/data/narrativeqa`: its repository, with its splits;
- `demonstrations:qa-pubmedqa`: examples of a task as the document, further inputs as the questions.
"""

from __future__ import annotations

import hashlib
import random
from pathlib import Path

from generator.evaluation import sources
from generator.evaluation.items import Text
from generator.evaluation.tasks.demonstrations import as_input
from generator.training.data import EVALUATION_ONLY, Passage, Question, load_passages

DEMONSTRATIONS = "demonstrations"
# Public sets that have something to train on; the others that evaluation knows are tests.
_TRAINABLE = ("squad", "narrativeqa")
_HELD_OUT_ONE_IN = 20
# Documents made of one task's examples, and the questions to each, at most.
_DOCUMENTS = 100
_ASKED = 4


def load(name: str, folder: Path, split: str, text: Text, length: tuple[int, int]) -> list[Passage]:
    """Passages of a source, `train` or `dev`. length: tokens of a passage, inclusive.

    Raises FileNotFoundError; ValueError for a file of another form, or one for evaluation only.
    """
    kind, _, rest = name.partition(":")
    if not rest:
        return load_passages(folder, name, split, text.tokenize, length)
    if kind == DEMONSTRATIONS:
        return _demonstrations(rest, folder, split, text, length)
    if kind not in _TRAINABLE:
        raise ValueError(f"{name}: {kind} is not one of {', '.join((*_TRAINABLE, DEMONSTRATIONS))}")
    passages = [
        Passage(source.group, text.tokenize(source.text), name, [q for q in source.questions if q.answers])
        for source in sources.documents(name, folder, split)
        if kind != "squad" or _split(source.group) == split
    ]
    return [p for p in passages if length[0] <= len(p.ids) <= length[1] and p.questions]


def _split(group: str) -> str:
    """SQuAD's file is one split of its own: some articles of it, always the same, are not trained on."""
    digest = hashlib.sha256(group.encode()).digest()
    return "dev" if int.from_bytes(digest[:4], "big") % _HELD_OUT_ONE_IN == 0 else "train"


def _demonstrations(name: str, folder: Path, split: str, text: Text, length: tuple[int, int]) -> list[Passage]:
    """Documents of one to many examples. Those that are shown and those that are asked are different ones."""
    if EVALUATION_ONLY in name and split == "train":
        raise ValueError(f"{name} is for evaluation only")
    passages = []
    for one in sources.example_sets(name, folder, split, seed=0):
        rng = random.Random(one.name)
        for _ in range(min(_DOCUMENTS, len(one.shown))):
            ids = _shown(rng.sample(one.shown, len(one.shown)), text, rng.randint(*length))
            asked = rng.sample(one.asked, min(_ASKED, len(one.asked)))
            questions = [Question(as_input(i, text), [o], whole=True) for i, o in asked]
            if length[0] <= len(ids) <= length[1] and questions:
                passages.append(Passage(one.name, ids, name, questions))
    return passages


def _shown(examples: list[tuple[str, str]], text: Text, tokens: int) -> list[int]:
    """As many examples as fit into so many tokens, one at least."""
    ids: list[int] = []
    for example, output in examples:
        piece = text.tokenize(("\n\n" if ids else "") + f"{as_input(example, text)} {output}")
        if ids and len(ids) + len(piece) > tokens:
            break
        ids += piece
    return ids
