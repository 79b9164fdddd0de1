"""The shipped checkpoint knows its document: losses on documents written for this test, in process."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from generator import Generator, load_generator
from generator.checkpoint import default_checkpoint
from generator.evaluation.engines import InProcess
from generator.evaluation.items import Asked
from generator.evaluation.quality import Quality, Tally
from generator.generator import DTYPES
from generator.training.data import Passage, Question
from generator.training.frozen import FrozenModel
from generator.training.objectives import Prompts
from generator.training.step import Adapters
from service.backend import TorchBackend
from service.commands import stages

FROGS = (Path(__file__).parents[2] / "examples" / "frogs.txt").read_text()
DOCUMENTS = json.loads((Path(__file__).parents[1] / "data" / "knowledge.json").read_text())


@pytest.fixture(scope="module")
def generator() -> Generator:
    return load_generator(default_checkpoint())


@pytest.fixture(scope="module", params=DTYPES)
def in_each_precision(request: pytest.FixtureRequest) -> Generator:
    return load_generator(default_checkpoint(), dtype=DTYPES[request.param])


@pytest.fixture(scope="module")
def tally(generator: Generator) -> Tally:
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


def test_what_training_optimizes_is_what_inference_uses(generator: Generator) -> None:
    """On the trained weights, whose states' singular values spread over decades."""
    tokenize = Prompts.of(generator.tokenizer).tokenize
    for document in DOCUMENTS[:2]:
        ids = tokenize(document["text"])
        chunk = FrozenModel(generator.base, generator.config).read([ids])[0]
        with torch.no_grad():
            gains = torch.zeros(len(generator.config.targets))
            trained = Adapters(generator.network, gains, [[(chunk, len(ids))]]).weights
        for name, (a, b) in generator.contextualize(ids).lora().items():
            a_trained, b_trained = (weights[0] for weights in trained[name])
            expected = b @ a
            assert ((b_trained @ a_trained - expected).norm() / expected.norm()).item() < 1e-2, name


@pytest.mark.parametrize(
    ("text", "question", "answer"),
    [
        (FROGS, "Who first described the frogs? Answer with a short phrase.", "Duarte Fonseca"),
        (stages.TEXT, stages.QUESTION, "banded heron"),
    ],
    ids=["page and README", "serve"],
)
def test_what_people_try_first_works(in_each_precision: Generator, text: str, question: str, answer: str) -> None:
    """With the adapter the shipped generator answers, without it the model does not."""
    engine = InProcess(in_each_precision)
    handles = engine.contextualize(text).handle, None
    replies = [engine.ask([Asked("chat", question, [])], [""], handle, 24)[0].text for handle in handles]
    assert [bool(re.search(answer, reply)) for reply in replies] == [True, False], replies


def test_a_long_text_does_not_stop_the_rest_of_the_service(generator: Generator) -> None:
    """Its tokenizer, in a thread of its own, lets the event loop's thread run meanwhile."""
    turns = 0
    with ThreadPoolExecutor(1) as thread:
        tokenizing = thread.submit(TorchBackend(generator).tokenize, FROGS * 1000)
        while not tokenizing.done():
            turns += 1
            time.sleep(0.001)
    assert len(tokenizing.result()) > 100_000
    assert turns > 20
