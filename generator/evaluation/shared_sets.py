"""Sources in this project's own form: `SOURCE.jsonl(.zst)` with a split, as training reads them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from generator.evaluation.items import Source
from generator.training.data import Question, read_lines


def records(folder: Path, source: str, split: str) -> Iterator[dict[str, Any]]:
    """Lines of one split. Raises FileNotFoundError."""
    path = next((p for p in (folder / f"{source}.jsonl.zst", folder / f"{source}.jsonl") if p.is_file()), None)
    if path is None:
        raise FileNotFoundError(f"{folder}: no {source}.jsonl(.zst) there; --data names the folder that holds it")
    return (record for record in read_lines(path) if record["split"] == split)


def documents(folder: Path, source: str, split: str) -> list[Source]:
    """`qa-*`: each context with its questions; `corpus-*`: each text. A set without titles counts each document as a group."""
    by_text: dict[str, Source] = {}
    for record in records(folder, source, split):
        text = record["text"] if "text" in record else record["context"]
        if not text.strip():
            continue
        found = by_text.setdefault(text, Source(record.get("group") or record["title"] or record["id"], text))
        if record.get("answers"):
            found.questions.append(Question(record["question"], record["answers"]))
    return list(by_text.values())


def examples(folder: Path, source: str, split: str) -> dict[str, list[tuple[str, str]]]:
    """Task -> (input, output) pairs: questions with a title as task; a passage, where there is one, goes before its question."""
    tasks: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for record in records(folder, source, split):
        context = record.get("context", "")
        task = source.removeprefix("qa-") if context else record["title"]
        tasks[task].append((f"{context}\n{record['question']}".strip(), record["answers"][0]))
    return dict(tasks)
