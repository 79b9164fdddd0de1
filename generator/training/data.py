"""Training and evaluation data: JSON lines (zstd), one question with its passage a line, or one document a line."""

from __future__ import annotations

import hashlib
import io
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Tokenize = Callable[[str], list[int]]

# Files whose use for training their licence or their purpose excludes.
EVALUATION_ONLY = "evalonly"


@dataclass
class Question:
    text: str
    answers: list[str]
    whole: bool = False  # `text` is all of the prompt, and the answer follows it after a space

    @property
    def gold(self) -> str:
        """The answer that most annotators gave."""
        return Counter(self.answers).most_common(1)[0][0]


@dataclass
class Passage:
    """A piece of text and what is asked about it."""

    title: str
    ids: list[int]
    source: str
    questions: list[Question] = field(default_factory=list)


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Records of a `.jsonl` or `.jsonl.zst` file."""
    if path.suffix == ".zst":
        import zstandard

        with path.open("rb") as raw:
            yield from map(
                json.loads, io.TextIOWrapper(zstandard.ZstdDecompressor().stream_reader(raw), encoding="utf-8")
            )
    else:
        with path.open(encoding="utf-8") as file:
            yield from map(json.loads, file)


def load_passages(
    folder: Path, source: str, split: str, tokenize: Tokenize, length: tuple[int, int] = (60, 360)
) -> list[Passage]:
    """Passages of one file (`qa-squad`, `corpus-openstax`, ...) of one split, those of `length` tokens (inclusive).

    Documents of a corpus, which have no questions, are cut into passages of at most `length[1]` tokens.
    Raises ValueError when a file for evaluation only is asked for training.
    """
    if EVALUATION_ONLY in source and split == "train":
        raise ValueError(f"{source} is for evaluation only")
    path = next((p for p in (folder / f"{source}.jsonl.zst", folder / f"{source}.jsonl") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder.name} has no {source}.jsonl(.zst)")
    records = (record for record in read_lines(path) if record["split"] == split)
    if source.startswith("corpus-"):
        return _cut_corpus(records, source, tokenize, length)
    by_context: dict[str, Passage] = {}
    for record in records:
        passage = by_context.get(record["context"])
        if passage is None:
            passage = by_context[record["context"]] = Passage(record["title"], tokenize(record["context"]), source)
        if record["answers"]:
            passage.questions.append(Question(record["question"], record["answers"]))
    return [p for p in by_context.values() if length[0] <= len(p.ids) <= length[1] and p.questions]


def _cut_corpus(
    records: Iterator[dict[str, Any]], source: str, tokenize: Tokenize, length: tuple[int, int]
) -> list[Passage]:
    passages = []
    for record in records:
        ids = tokenize(record["text"])
        pieces = [ids[start : start + length[1]] for start in range(0, len(ids), length[1])]
        passages += [Passage(record["title"], piece, source) for piece in pieces if len(piece) >= length[0]]
    return passages


def fingerprint(passages: list[Passage]) -> str:
    """SHA-256 (hex) over the token ids and questions, in order: what a checkpoint was trained on."""
    digest = hashlib.sha256()
    for passage in passages:
        digest.update(json.dumps([passage.ids, [[q.text, q.answers] for q in passage.questions]]).encode())
    return digest.hexdigest()


class Mixture:
    """An endless stream of passages: sources by weight, each shuffled anew for every round. Resumable: seeded by step."""

    def __init__(self, sources: dict[str, list[Passage]], weights: dict[str, float], seed: int) -> None:
        self.sources = sources
        self.names = sorted(sources)
        self.weights = [weights[name] for name in self.names]
        self.seed = seed
        self._orders: dict[tuple[str, int], list[int]] = {}

    def draw(self, step: int, count: int) -> list[Passage]:
        """The passages of one step. The same (seed, step, count) gives the same ones; none comes twice in a round."""
        rng = random.Random(f"{self.seed}-{step}")
        names = rng.choices(self.names, self.weights, k=count)
        return [self._shuffled(name, step * count + slot) for slot, name in enumerate(names)]

    def _shuffled(self, name: str, position: int) -> Passage:
        passages = self.sources[name]
        round_, offset = divmod(position, len(passages))
        key = (name, round_)
        if key not in self._orders:
            self._orders.clear()
            order = list(range(len(passages)))
            random.Random(f"{self.seed}-{name}-{round_}").shuffle(order)
            self._orders[key] = order
        return passages[self._orders[key][offset]]
