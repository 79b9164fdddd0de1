"""The shipped checkpoint knows its document: losses on documents written for this test, in process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from generator import load_generator
from generator.checkpoint import default_checkpoint
from generator.evaluation.quality import Quality, Tally
from generator.training.data import Passage, Question
from generator.training.objectives import Prompts

DOCUMENTS = json.loads((Path(__file__).parents[1] / "data" / "knowledge.json").read_text())


@pytest.fixture(scope="module")
def tally() -> Tally:
    generator = load_generator(default_checkpoint())
    prompts = Prompts.of(generator.tokenizer)
    passages = [
        Passage(
            d["title"],
            prompts.tokenize(d["text"]),
            "own",
            [Question(q["question"], [q["answer"]]) for q in d["questions"]],
        )
        for d in DOCUMENTS
    ]
    quality = Quality(generator.base, prompts, passages, generator.config.scaling, questions=4)
    return quality.measure(lambda ids: generator.contextualize(ids).lora())


def test_answers_are_likelier_with_the_documents_adapter(tally: Tally) -> None:
    assert tally.mean("answers", "own") < tally.mean("answers", "closed") - 0.5
    assert tally.mean("answers", "own") < tally.mean("answers", "other") - 0.5


def test_the_document_itself_is_likelier(tally: Tally) -> None:
    assert tally.mean("reconstruction", "own") < tally.mean("reconstruction", "closed") - 0.5


def test_unrelated_text_is_hardly_touched(tally: Tally) -> None:
    assert tally.mean("unrelated text", "other") < tally.mean("unrelated text", "closed") + 0.15
