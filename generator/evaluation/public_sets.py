"""The public sets as their makers give them away. Nothing is downloaded here: each loader says which files it wants.

A missing file raises FileNotFoundError with the place to get it, a file of another form ValueError with its name.
"""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from generator.evaluation.items import Source
from generator.training.data import Question

_CSV_FIELD_BYTES = 1 << 24  # a story's summary is one field


def _found(path: Path, origin: str) -> Path:
    if not path.exists():
        raise FileNotFoundError(f"{path} is not there; get it from {origin}")
    return path


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: not JSON ({error})") from error


def squad(path: Path) -> list[Source]:
    """SQuAD 1.1 or 2.0, `dev-v1.1.json`: one source a paragraph. Questions without an answer have no gold answers."""
    data = json.loads(_found(path, "https://rajpurkar.github.io/SQuAD-explorer/").read_text(encoding="utf-8"))
    if not isinstance(data, dict) or "data" not in data:
        raise ValueError(f"{path} has no 'data': it is not a SQuAD file")
    return [
        Source(
            article["title"],
            paragraph["context"],
            [Question(qa["question"], [answer["text"] for answer in qa["answers"]]) for qa in paragraph["qas"]],
        )
        for article in data["data"]
        for paragraph in article["paragraphs"]
    ]


def streamingqa(folder: Path) -> list[Source]:
    """StreamingQA: `streaminqa_eval.jsonl(.gz)` and the WMT articles `news-docs.YEAR.en.filtered.gz` it asks about.

    An article's key is its date and the SHA-256 of its last column, as the set's own extraction has it.
    """
    origin = (
        "https://github.com/google-deepmind/streamingqa (questions) and https://data.statmt.org/news-crawl/ (articles)"
    )
    names = [folder / f"streaminqa_eval.jsonl{suffix}" for suffix in ("", ".gz")]
    path = _found(next((name for name in names if name.is_file()), names[-1]), origin)
    questions: dict[str, list[Question]] = defaultdict(list)
    for row in _lines(path):
        questions[row["evidence_id"]].append(Question(row["question"], row["answers"]))
    archives = sorted(folder.glob("news-docs.*.gz"))
    if not archives:
        raise FileNotFoundError(f"{folder} has no news-docs.*.gz; get them from {origin}")
    sources = []
    for key, text in _articles(archives):
        if key in questions:
            sources.append(Source(key, text, questions.pop(key)))
    return sources


def _articles(archives: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for archive in archives:
        with gzip.open(archive, "rb") as file:
            for line in file:
                date, split_text, whole_text = line.strip().split(b"\t")
                key = "\x00\x01".join([f"{date.decode()}{'0' * 12}", hashlib.sha256(whole_text).hexdigest(), ""])
                yield key, base64.b64decode(split_text).decode("utf-8", "replace")


def narrativeqa(folder: Path, split: str = "test") -> list[Source]:
    """NarrativeQA, `train`, `dev` or `test`: `qaps.csv` and `third_party/wikipedia/summaries.csv` of its repository.

    The summary is the document.
    """
    origin = "https://github.com/google-deepmind/narrativeqa"
    questions: dict[str, list[Question]] = defaultdict(list)
    for row in _table(_found(folder / "qaps.csv", origin)):
        if row["set"] == ("valid" if split == "dev" else split):
            questions[row["document_id"]].append(Question(row["question"], [row["answer1"], row["answer2"]]))
    summaries = _table(_found(folder / "third_party" / "wikipedia" / "summaries.csv", origin))
    return [
        Source(row["document_id"], row["summary"], questions[row["document_id"]])
        for row in summaries
        if row["document_id"] in questions
    ]


def _table(path: Path) -> Iterator[dict[str, str]]:
    csv.field_size_limit(_CSV_FIELD_BYTES)
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def msc(path: Path) -> list[Source]:
    """Multi-session chat with questions (MSC-Self-Instruct): JSON lines with `previous_dialogs`, `dialog`, `self_instruct`.

    B asks the question in the last session, A answers it from the sessions before.
    """
    origin = "https://huggingface.co/datasets/MemGPT/MSC-Self-Instruct"
    sources = []
    for number, row in enumerate(_lines(_found(path, origin)), 1):
        if "previous_dialogs" not in row or "self_instruct" not in row:
            raise ValueError(f"{path}, line {number}: no previous_dialogs and self_instruct; get the set from {origin}")
        sessions = [*(session["dialog"] for session in row["previous_dialogs"]), row.get("dialog", [])]
        text = "\n\n".join(_session(turns) for turns in sessions if turns)
        asked = row["self_instruct"]
        sources.append(Source(f"conversation {number}", text, [Question(asked["B"], [asked["A"]])]))
    return sources


def _session(turns: list[dict[str, Any]]) -> str:
    return "\n".join(f"{turn.get('id') or f'Speaker {1 + i % 2}'}: {turn['text']}" for i, turn in enumerate(turns))


def metaicl(folder: Path) -> dict[str, tuple[list[tuple[str, str]], list[tuple[str, str]], list[str]]]:
    """MetaICL's `data/TASK/TASK_16_SEED_{train,test}.jsonl`: task -> (demonstrations, tests, options)."""
    origin = "https://github.com/facebookresearch/MetaICL (its preprocessing writes data/)"
    tasks = {}
    for path in sorted(_found(folder, origin).glob("*/*_test.jsonl")):
        test = list(_lines(path))
        train = list(_lines(_found(path.with_name(path.name.replace("_test", "_train")), origin)))
        if test and path.parent.name not in tasks:  # the first seed's demonstrations
            pairs = [[(row["input"], row["output"]) for row in rows] for rows in (train, test)]
            tasks[path.parent.name] = (pairs[0], pairs[1], list(test[0].get("options") or []))
    if not tasks:
        raise FileNotFoundError(f"{folder} has no */*_test.jsonl; get them from {origin}")
    return tasks


def haystack(folder: Path) -> list[Source]:
    """Needle haystacks: a folder of `.txt` files (Paul Graham's essays, in the usual test)."""
    origin = "https://github.com/gkamradt/LLMTest_NeedleInAHaystack (its folder PaulGrahamEssays)"
    paths = sorted(_found(folder, origin).glob("*.txt"))
    if not paths:
        raise FileNotFoundError(f"{folder} has no *.txt; get them from {origin}")
    return [Source(path.stem, path.read_text(encoding="utf-8")) for path in paths]
