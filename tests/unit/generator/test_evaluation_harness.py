"""The harness: tasks make what they say, a run is scored, reported and gone on with."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from generator.evaluation import harness, plots, results, write
from generator.evaluation.costs import Shape
from generator.evaluation.engines import Made, Reply
from generator.evaluation.harness import AnotherRun, Harness, Plan
from generator.evaluation.items import Asked, Sizes, Source, Text, split_passages
from generator.evaluation.retrieval import best_passages
from generator.evaluation.sources import ExampleSet
from generator.evaluation.tasks import CLOSED, OTHER, OWN, PROMPT, RETRIEVAL, TASKS
from generator.generator import Generator
from generator.training.data import Question

WORDS = ["harbour", "lantern", "meadow", "copper", "falcon", "violin", "button", "acorn", "pier", "teapot"]


class Vocabulary:
    """A tokenizer of whole words."""

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        return [self.ids.setdefault(word, len(self.ids)) for word in text.split()]

    def decode(self, ids: list[int]) -> str:
        words = list(self.ids)
        return " ".join(words[i] for i in ids)


def words(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join(f"{rng.choice(WORDS)}{seed}x{i}" for i in range(count))


def sizes(**changes: Any) -> Sizes:
    return Sizes(
        **{"limit": 3, "seed": 0, "lengths": (50, 120), "shots": (1, 2), "depths": (0, 50, 100), "questions": 2}
        | changes
    )


def articles(count: int = 12, length: int = 30) -> list[Source]:
    return [Source(f"article {i % 6}", words(length, i), [Question(f"what is {i}?", [f"it{i}"])]) for i in range(count)]


@pytest.fixture
def text() -> Text:
    vocabulary = Vocabulary()
    return Text(vocabulary.encode, vocabulary.decode)


def test_a_packed_document_holds_the_passage_and_nothing_of_what_is_asked_elsewhere(text: Text) -> None:
    sources = articles()
    items = TASKS["documents"].items(sources, sizes(), text)  # type: ignore[arg-type]
    assert [item.setting for item in items] == ["50", "120"] * 3
    asked = {item.asked[0].text: item for item in items}
    for item in items:
        (passage,) = [s for s in sources if s.questions[0].text in item.asked[0].text]
        assert passage.text in item.passages
        assert abs(text.length(item.document) - int(item.setting)) <= 4  # the words here count no blank lines
        held = {s.questions[0].text for s in sources if s.text[:20] in item.document}
        assert not held & (
            {q.removesuffix(" Answer with a short phrase.") for q in asked} - {passage.questions[0].text}
        )
        assert passage.text[:20] not in item.other_document


def test_the_same_items_come_first_whatever_the_limit(text: Text) -> None:
    few, many = (TASKS["documents"].items(articles(40), sizes(limit=n), text) for n in (2, 5))  # type: ignore[arg-type]
    by_id = {item.id: item.document for item in many}
    assert all(by_id[item.id] == item.document for item in few)


def test_a_run_that_is_cut_short_has_spent_as_much_on_every_length(text: Text) -> None:
    items = TASKS["documents"].items(articles(40), sizes(limit=8, lengths=(50, 4096, 8192, 16384)), text)  # type: ignore[arg-type]
    order = [int(item.setting) for item in items]
    assert sorted(order) == sorted([50, 4096, 8192, 16384] * 8), "with time enough there are all"
    half = order[: order.index(16384, order.index(16384) + 1)]
    assert [half.count(length) for length in (50, 4096, 8192, 16384)] == [6, 6, 3, 1]


def test_a_needle_stands_where_it_should(text: Text) -> None:
    items = TASKS["needles"].items(
        [Source(str(i), f"{words(9, i)}. {words(9, i + 50)}.") for i in range(30)], sizes(), text
    )  # type: ignore[arg-type]
    for item in items:
        length, depth = plots._place(item.setting)
        answer = item.asked[0].answers[0]
        before = item.document.index(answer) / len(item.document)
        assert abs(before - depth / 100) < 0.35
        assert abs(text.length(item.document) - length) < 25
        assert answer not in item.other_document


def test_demonstrations_never_show_what_is_asked(text: Text) -> None:
    sets = [
        ExampleSet(
            name,
            [(f"{name} shown {i}", "yes") for i in range(4)],
            [(f"{name} asked {i}", "no") for i in range(4)],
            ["no", "yes"],
        )
        for name in ("first", "second")
    ]
    items = TASKS["demonstrations"].items(sets, sizes(), text)  # type: ignore[arg-type]
    assert sorted(item.setting for item in items) == ["1", "1", "2", "2"]
    for item in items:
        assert len(item.passages) == int(item.setting)
        assert all("shown" in passage and passage.endswith("yes") for passage in item.passages)
        assert item.group not in item.other_document


def test_retrieval_takes_the_passages_that_the_words_point_to() -> None:
    passages = split_passages(
        "\n\n".join(f"{words(60, i)}" for i in range(8)) + "\n\nThe pier of Vellmoor is green. " + words(50, 99)
    )
    best = best_passages(passages, "What colour is the pier of Vellmoor?", 2)
    assert any("Vellmoor" in passage for passage in best)
    assert len(best) == 2


class Parrot:
    """An engine without a model: repeats the first answer when the document stands in the prompt, or under its own adapter."""

    kinds: tuple[str, ...] = ("chat",)
    window = 10_000

    def __init__(self, generator: Generator, text: Text) -> None:
        self.text, self.config, self.shape = text, generator.config, Shape.of(generator.base.config)
        self.asked = 0

    def contextualize(self, document: str) -> Made:
        return Made(document, len(document), 0.5, 10)

    def ask(self, asked: list[Asked], contexts: list[str], handle: Any, max_tokens: int) -> list[Reply]:
        self.asked += len(asked)
        knowing = [
            f"passage of {one.answers[0]}" in (context or handle or "")
            for one, context in zip(asked, contexts, strict=True)
        ]
        return [
            Reply(one.answers[0] if knows else "no idea", 1.0 if knows else 5.0, 2, None, 9, 3, 0.1)
            for one, knows in zip(asked, knowing, strict=True)
        ]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    lines = [
        {"id": str(i), "title": f"article {i % 6}", "context": f"passage of it{i} {words(40, i)}", "question": f"what is it{i}?",
         "answers": [f"it{i}"], "split": "test"}
        for i in range(24)
    ]  # fmt: skip
    (tmp_path / "qa-squad.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return tmp_path


PLAN = Plan(tasks=("documents",), limit=3, tuned=1, lengths=(60, 150))
ABOUT = {"checkpoint": "0" * 64, "base_model": "tiny", "answers": "by a parrot"}


def test_a_run_is_scored_reported_and_gone_on_with(
    tiny_generator: Callable[..., Generator], text: Text, data: Path, tmp_path: Path
) -> None:
    engine, folder = Parrot(tiny_generator(), text), tmp_path / "run"
    records = Harness(engine, PLAN, data, folder, ABOUT).run(progress=False)
    asked = engine.asked
    rows = results.summarize(records)
    f1 = {(row["setting"], row["method"]): row["metrics"]["F1"]["mean"] for row in rows}
    for setting in ("60", "150"):
        assert f1[setting, OWN] == f1[setting, PROMPT] == 1
        assert f1[setting, CLOSED] == f1[setting, OTHER] == 0
    assert f1["150", RETRIEVAL] == 1
    assert ("60", RETRIEVAL) not in f1  # three passages or fewer: the whole document
    assert rows[0]["metrics"]["loss"]["mean"] == pytest.approx(2.5)
    path = write.write(
        folder, Harness(engine, PLAN, data, folder, ABOUT).configuration, rows, records, "Made by a test."
    )
    assert "| 150 | own adapter | 100.0 |" in path.read_text()
    assert (folder / "documents.png").stat().st_size > 1000
    assert len(json.loads((folder / "results.json").read_text())["records"]) == len(records)

    # Cut off in the middle of a line: that one is done again, no other.
    lines = (folder / harness.RECORDS).read_text().splitlines(keepends=True)
    (folder / harness.RECORDS).write_text("".join(lines[:-1]) + lines[-1][:40])
    again = Harness(engine, PLAN, data, folder, ABOUT).run(progress=False)
    assert again == records
    assert engine.asked == asked + len(records[-1]["replies"])
    with pytest.raises(AnotherRun, match="checkpoint"):
        Harness(engine, PLAN, data, folder, ABOUT | {"checkpoint": "1" * 64})


def test_a_time_limit_leaves_a_report(
    tiny_generator: Callable[..., Generator], text: Text, data: Path, tmp_path: Path
) -> None:
    plan = Plan(tasks=("documents",), limit=3, lengths=(60,), minutes=0.0)
    assert Harness(Parrot(tiny_generator(), text), plan, data, tmp_path / "run", ABOUT).run(progress=False) == []


def test_macro_f1_and_perplexity_are_what_they_are_called() -> None:
    def record(task: str, group: str, replies: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "task": task,
            "group": group,
            "setting": "1",
            "method": OWN,
            "replies": replies,
            "document": {},
            "question": {},
        }

    # Gold: a a b; chosen: a b b. F1 of a: 2/3, of b: 2/3.
    chosen = [{"chosen": c, "gold": g} for c, g in ("aa", "ba", "bb")]
    (row,) = results.summarize([record("demonstrations", "t", chosen)])
    assert row["metrics"]["macro F1"]["mean"] == pytest.approx(2 / 3, abs=1e-4)
    assert row["metrics"]["accuracy"]["mean"] == pytest.approx(2 / 3, abs=1e-4)
    losses = [{"loss": 8 * math.log(3), "tokens": 4}, {"loss": 0.0, "tokens": 4}]
    (row,) = results.summarize([record("completion", "t", losses)])
    assert row["metrics"]["perplexity"]["mean"] == pytest.approx(3, abs=1e-3)
