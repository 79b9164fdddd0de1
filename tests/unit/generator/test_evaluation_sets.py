"""Public sets are read as their makers give them away; a missing or wrong file is named."""

from __future__ import annotations

import base64
import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from generator.evaluation import public_sets
from generator.evaluation.sources import documents, example_sets
from generator.training.data import Question


def write_lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def test_squad(tmp_path: Path) -> None:
    answers = [{"text": "pier 14", "answer_start": 25}, {"text": "14", "answer_start": 30}]
    asked = [
        {"id": "1", "question": "Where?", "answers": answers},
        {"id": "2", "question": "Who?", "answers": [], "is_impossible": True},
    ]
    paragraph = {"context": "The Orchid is moored at pier 14.", "qas": asked}
    path = tmp_path / "dev-v2.0.json"
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "Boats", "paragraphs": [paragraph]}]}))
    (source,) = documents(f"squad:{path}", tmp_path, "test")
    assert (source.group, source.text) == ("Boats", "The Orchid is moored at pier 14.")
    assert source.questions == [Question("Where?", ["pier 14", "14"]), Question("Who?", [])]


def test_streamingqa_joins_questions_and_articles(tmp_path: Path) -> None:
    lines, keys = [], []
    for text in ("A bridge opened. It is red.", "Nobody asks about this."):
        encoded = base64.b64encode(text.encode())
        lines.append(b"20200115\t" + base64.b64encode(text.replace(". ", ".\n").encode()) + b"\t" + encoded)
        keys.append(f"20200115000000000000\x00\x01{hashlib.sha256(encoded).hexdigest()}\x00\x01")
    (tmp_path / "news-docs.2020.en.filtered.gz").write_bytes(gzip.compress(b"\n".join(lines) + b"\n"))
    row = {"qa_id": "eval-0", "question": "Which colour?", "answers": ["red", "a red", "red."], "evidence_id": keys[0]}
    write_lines(tmp_path / "streaminqa_eval.jsonl.gz", [row])
    (source,) = public_sets.streamingqa(tmp_path)
    assert source.text == "A bridge opened.\nIt is red."
    assert source.questions == [Question("Which colour?", ["red", "a red", "red."])]


def test_narrativeqa_takes_one_split(tmp_path: Path) -> None:
    (tmp_path / "third_party" / "wikipedia").mkdir(parents=True)
    questions = [("d1", "test", "Who sails?", "Ida", "Ida Marsh"), ("d2", "train", "Who sinks?", "Tom", "Tom")]
    with (tmp_path / "qaps.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(
            [
                "document_id",
                "set",
                "question",
                "answer1",
                "answer2",
                "question_tokenized",
                "answer1_tokenized",
                "answer2_tokenized",
            ]
        )
        table.writerows([*row, "", "", ""] for row in questions)
    with (tmp_path / "third_party" / "wikipedia" / "summaries.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["document_id", "set", "summary", "summary_tokenized"])
        table.writerows([["d1", "test", "Ida sails,\nand sails.", ""], ["d2", "train", "Tom sinks.", ""]])
    (source,) = public_sets.narrativeqa(tmp_path)
    assert source.text == "Ida sails,\nand sails."
    assert source.questions == [Question("Who sails?", ["Ida", "Ida Marsh"])]


def test_msc_puts_sessions_in_order(tmp_path: Path) -> None:
    session = [{"text": "I bake bread."}, {"text": "I keep bees."}]
    last = [{"id": "Speaker 1", "text": "Hello again."}]
    row = {
        "previous_dialogs": [{"dialog": session}],
        "dialog": last,
        "self_instruct": {"B": "What did I say I keep?", "A": "You keep bees."},
    }
    (source,) = public_sets.msc(write_lines(tmp_path / "msc.jsonl", [row]))
    assert source.text == "Speaker 1: I bake bread.\nSpeaker 2: I keep bees.\n\nSpeaker 1: Hello again."
    assert source.questions == [Question("What did I say I keep?", ["You keep bees."])]
    with pytest.raises(ValueError, match="line 1"):
        public_sets.msc(write_lines(tmp_path / "other.jsonl", [{"dialog": last}]))


def test_metaicl_reads_a_task_with_its_options(tmp_path: Path) -> None:
    def rows(count: int) -> list[dict[str, Any]]:
        return [
            {"task": "glue-sst2", "input": f"film {i}", "output": "good", "options": ["bad", "good"]}
            for i in range(count)
        ]

    write_lines(tmp_path / "glue-sst2" / "glue-sst2_16_100_train.jsonl", rows(16))
    write_lines(tmp_path / "glue-sst2" / "glue-sst2_16_100_test.jsonl", rows(3))
    (one,) = example_sets(f"metaicl:{tmp_path}", tmp_path, "test", 0)
    assert (one.name, len(one.shown), len(one.asked), one.options) == ("glue-sst2", 16, 3, ["bad", "good"])


def test_our_own_sets_become_classification_where_labels_are_few(tmp_path: Path) -> None:
    rows = [
        {
            "id": str(i),
            "title": "parity",
            "context": "",
            "question": f"{i}?",
            "answers": [("even", "odd")[i % 2]],
            "split": "test",
        }
        for i in range(60)
    ]
    rows += [
        {"id": f"f{i}", "title": "free", "context": "", "question": f"{i}?", "answers": [str(i)], "split": "test"}
        for i in range(60)
    ]
    write_lines(tmp_path / "qa-x.jsonl", rows)
    (one,) = example_sets("qa-x", tmp_path, "test", 0)
    assert (one.name, one.options) == ("parity", ["even", "odd"])
    assert not set(one.shown) & set(one.asked)


def test_a_haystack_is_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "essay.txt").write_text("Work hard.")
    assert [source.text for source in documents(f"haystack:{tmp_path}", tmp_path, "test")] == ["Work hard."]


@pytest.mark.parametrize("kind", ["squad", "streamingqa", "narrativeqa", "msc", "haystack"])
def test_a_missing_file_says_where_to_get_it(tmp_path: Path, kind: str) -> None:
    with pytest.raises(FileNotFoundError, match="https://"):
        documents(f"{kind}:{tmp_path / 'nothing'}", tmp_path, "test")


def test_an_unknown_kind_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="squat is not one of"):
        documents("squat:x.json", tmp_path, "test")
