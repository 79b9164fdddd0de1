"""What `[data.sources]` may name becomes passages; what is for evaluation is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generator.evaluation.items import Text
from generator.training import sources
from generator.training.objectives import Prompts

LETTERS = Text(lambda text: [ord(c) for c in text], lambda ids: "".join(map(chr, ids)))
LENGTH = (20, 400)


def load(name: str, folder: Path, split: str = "train") -> list[sources.Passage]:
    return sources.load(name, folder, split, LETTERS, LENGTH)


def reviews(folder: Path, name: str, split: str) -> None:
    rows = [
        {
            "title": "t",
            "context": f"Review {i} of a film.",
            "question": "Is it good?",
            "answers": ["yes" if i % 2 else "no"],
            "split": split,
        }
        for i in range(60)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_demonstrations_show_some_examples_and_ask_others(tmp_path: Path) -> None:
    reviews(tmp_path, "qa-reviews", "train")
    passages = load("demonstrations:qa-reviews", tmp_path)
    assert len(passages) == 30
    assert len({len(p.ids) for p in passages}) > 3, "few examples and many"
    prompts = Prompts(LETTERS.tokenize, lambda text: text, [0], 1)
    for passage in passages:
        assert LENGTH[0] <= len(passage.ids) <= LENGTH[1]
        shown = LETTERS.decode(passage.ids)
        assert shown.endswith(("yes", "no"))
        for question in passage.questions:
            assert question.text not in shown
            prompt, target = prompts.question(question, "phrase")
            assert LETTERS.decode(prompt[1:]) == question.text, "no chat around it"
            assert question.text.endswith("\nOutput:")
            assert LETTERS.decode(target) in (" yes\n", " no\n")


def test_articles_of_squad_are_held_out(tmp_path: Path) -> None:
    def article(i: int) -> dict[str, object]:
        asked = [{"question": "Where?", "answers": [{"text": "here"}]}, {"question": "Who?", "answers": []}]
        return {"title": f"Article {i}", "paragraphs": [{"context": f"Something of thing {i}.", "qas": asked}]}

    path = tmp_path / "train.json"
    path.write_text(json.dumps({"data": [article(i) for i in range(200)]}))
    train, dev = (load(f"squad:{path}", tmp_path, split) for split in ("train", "dev"))
    assert len(train) + len(dev) == 200
    assert 1 <= len(dev) <= 30
    assert not {p.title for p in train} & {p.title for p in dev}
    assert all(len(p.questions) == 1 for p in train), "questions without an answer are left out"


@pytest.mark.parametrize("name", ["qa-evalonly-x", "demonstrations:qa-evalonly-x", "msc:/none", "streamingqa:/none"])
def test_what_is_for_evaluation_is_not_trained_on(tmp_path: Path, name: str) -> None:
    reviews(tmp_path, "qa-evalonly-x", "train")
    with pytest.raises(ValueError, match=r"evaluation only|is not one of"):
        load(name, tmp_path)
