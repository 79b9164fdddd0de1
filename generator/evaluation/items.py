"""What every task gives to the harness: documents with questions, each with the setting it belongs to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from generator.training.data import Question

# chat: a user's message, the answer is generated and its loss measured. raw: text that the answer follows, options are scored.
# continue: the text that follows the document. recite: a piece of the document itself.
Kind = Literal["chat", "raw", "continue", "recite"]


@dataclass(frozen=True)
class Source:
    """One document as a loader reads it. group: what the bootstrap draws, for instance the article of a passage."""

    group: str
    text: str
    questions: list[Question] = field(default_factory=list)


@dataclass(frozen=True)
class Asked:
    """One thing that is asked about a document; the first answer is the one whose loss is measured."""

    kind: Kind
    text: str
    answers: list[str]
    options: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Item:
    """One document of a task and what is asked about it."""

    id: str  # unique within the task; the same for the same seed
    group: str
    setting: str  # what varies in the task: a length, a number of demonstrations
    passages: list[str]  # the document, in the pieces that retrieval chooses from
    asked: list[Asked]
    other: list[str]  # the passages of an unrelated document
    joint: str = "\n\n"

    @property
    def document(self) -> str:
        return self.joint.join(self.passages)

    @property
    def other_document(self) -> str:
        return self.joint.join(self.other)


@dataclass(frozen=True)
class Sizes:
    """How much of a task is run."""

    limit: int  # items of a setting
    seed: int
    lengths: tuple[int, ...]  # of documents, in tokens
    shots: tuple[int, ...]  # demonstrations
    depths: tuple[int, ...]  # of needles, percent
    questions: int  # about one document, at most


class Text:
    """Lengths and cuts in tokens."""

    def __init__(self, tokenize: Callable[[str], list[int]], decode: Callable[[list[int]], str]) -> None:
        self.tokenize, self.decode = tokenize, decode

    def length(self, text: str) -> int:
        return len(self.tokenize(text))

    def cut(self, text: str, tokens: int) -> str:
        """The first `tokens` tokens."""
        ids = self.tokenize(text)
        return text if len(ids) <= tokens else self.decode(ids[:tokens])


def split_passages(text: str, words: int = 100) -> list[str]:
    """Paragraphs, long ones cut and short ones joined, of about `words` words: what retrieval chooses from."""
    passages: list[list[str]] = []
    for paragraph in text.split("\n\n"):
        pieces = paragraph.split()
        for start in range(0, len(pieces), words):
            piece = pieces[start : start + words]
            if passages and len(passages[-1]) + len(piece) <= words:
                passages[-1] += piece
            else:
                passages.append(piece)
    return [" ".join(piece) for piece in passages]
