"""`genadapter eval quality` from files to figures: documents, passages in long documents, conversations."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from generator.evaluation import packed, report
from generator.generator import Generator


class Letters:
    """A tokenizer's stand-in: one id a character."""

    chat_template = None
    bos_token_id, eos_token_id = 0, 1

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return SimpleNamespace(input_ids=[2 + ord(character) % 60 for character in text])

    def get_vocab(self) -> dict[str, int]:
        return {}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


def write(folder: Path, source: str, count: int) -> None:
    rng = random.Random(source)
    rows = [
        {
            "title": f"article {i % 7}",
            "context": "".join(rng.choice("abcdefgh ") for _ in range(70)),
            "question": f"q{i}?",
            "answers": ["yes"],
            "split": "dev",
        }
        for i in range(count)
    ]
    (folder / f"{source}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_every_figure_is_there(
    tiny_generator: Callable[..., Generator], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = tiny_generator(strategy="parallel")
    generator.tokenizer = Letters()  # type: ignore[assignment]
    monkeypatch.setattr(packed, "TOKENS", 700)
    for source, count in (("qa-squad", 30), ("qa-personachat", 8)):
        write(tmp_path, source, count)
    wanted = report.Wanted("dev", 16, seed=3, sources=("qa-squad", "qa-personachat"))
    measured = report.measure(generator, tmp_path, wanted)
    assert (measured["documents"], measured["questions"], measured["seed"]) == (16, 16, 3)
    assert measured["conversations"]["documents"] == 4
    for condition in ("closed", "prompt", "own", "other", packed.OWN, packed.OTHER):
        assert 0 <= measured["answers"][f"f1/{condition}"]["mean"] <= 1
        assert measured["losses"]["answers"][condition] > 0
    for name in (
        "knowledge_recovered",
        "knowledge_recovered_packed",
        "harm_text",
        "harm_answers",
        "f1_gain",
        "f1_harm",
    ):
        figure = measured["summary"][name]
        assert figure["low"] <= figure["mean"] <= figure["high"], name
    assert "knowledge_recovered_packed" not in measured["conversations"]["summary"]
    assert "own, packed" in report.table(measured)
    assert report.measure(generator, tmp_path, wanted) == measured  # the same seed, the same figures


def test_long_documents_are_left_out_where_the_checkpoint_cannot_read_them(
    tiny_generator: Callable[..., Generator], tmp_path: Path
) -> None:
    generator = tiny_generator(strategy="concat")
    generator.tokenizer = Letters()  # type: ignore[assignment]
    write(tmp_path, "qa-squad", 30)
    wanted = report.Wanted("dev", 16, sources=("qa-squad",), generate=False)
    assert set(report.measure(generator, tmp_path, wanted)["losses"]["answers"]) == {"closed", "prompt", "own", "other"}


def test_a_missing_source_is_named(tiny_generator: Callable[..., Generator], tmp_path: Path) -> None:
    generator = tiny_generator()
    generator.tokenizer = Letters()  # type: ignore[assignment]
    with pytest.raises(FileNotFoundError, match="qa-squad"):
        report.measure(generator, tmp_path, report.Wanted(sources=("qa-squad",)))
