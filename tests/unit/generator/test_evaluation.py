"""Answers are counted as SQuAD counts them; batches change no figure; other documents are other documents."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
import torch

from generator.encode import attached
from generator.evaluation.answers import exact_match, token_f1
from generator.evaluation.packed import TOKENS, pack
from generator.evaluation.quality import Quality, Tally, another_title
from generator.evaluation.report import summarize
from generator.evaluation.rows import Row, Rows
from generator.evaluation.statistics import bootstrap, mean_of
from generator.generator import Generator
from generator.training.data import Passage, Question
from generator.training.objectives import Prompts

END = 1


# By hand, from the definitions of the official evaluation script of SQuAD 2.0 (normalize_answer, compute_exact, compute_f1).
@pytest.mark.parametrize(
    ("prediction", "gold", "exact", "f1"),
    [
        ("The Eiffel Tower.", ["Eiffel tower"], 1, 1),
        ("in the year 1973", ["October 1973", "1973"], 0, 0.5),
        ("a cat and a cat", ["cat"], 0, 0.5),
        ("twenty-two", ["twenty two"], 0, 0),
        ("", [], 1, 1),
        ("", ["Paris"], 0, 0),
        ("Paris", [""], 0, 0),
        ("the", ["a"], 1, 1),
    ],
)
def test_answers_count_as_in_squad(prediction: str, gold: list[str], exact: float, f1: float) -> None:
    assert exact_match(prediction, gold) == exact
    assert token_f1(prediction, gold) == pytest.approx(f1)


def mixed_rows(generator: Generator) -> list[Row]:
    rng = random.Random(0)
    adapters = [generator.contextualize([rng.randrange(2, 64) for _ in range(20)]).lora() for _ in range(2)]
    return [
        Row([rng.randrange(2, 64) for _ in range(n)], [rng.randrange(2, 64) for _ in range(m)], adapter)
        for n, m, adapter in zip(
            (3, 9, 4, 1, 7, 5), (4, 2, 6, 3, 1, 5), [*adapters, None, *adapters, None], strict=True
        )
    ]


def test_losses_in_batches_are_those_of_each_row_alone(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator()
    rows, scaling = mixed_rows(generator), generator.config.scaling
    for row, losses in zip(rows, Rows(generator.base, scaling).losses(rows), strict=True):
        with torch.inference_mode(), attached(generator.base, row.adapter or {}, scaling):
            logits = generator.base(torch.tensor([row.prompt + row.target])).logits[0, len(row.prompt) - 1 : -1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(row.target), reduction="none")
        torch.testing.assert_close(losses, expected, rtol=1e-4, atol=1e-4)


def test_continuations_in_batches_are_those_of_each_row_alone(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator()
    rows, scaling = mixed_rows(generator), generator.config.scaling
    for row, found in zip(rows, Rows(generator.base, scaling).continuations(rows, 6, END), strict=True):
        ids = list(row.prompt)
        with torch.inference_mode(), attached(generator.base, row.adapter or {}, scaling):
            for _ in range(6):
                ids.append(int(generator.base(torch.tensor([ids])).logits[0, -1].argmax()))
        expected = ids[len(row.prompt) :]
        assert found == (expected[: expected.index(END)] if END in expected else expected)


def passages(count: int, articles: int, length: int = 12) -> list[Passage]:
    rng = random.Random(1)
    return [
        Passage(f"article {i % articles}", [rng.randrange(2, 64) for _ in range(length)], "s", [Question("q?", ["ab"])])
        for i in range(count)
    ]


def prompts() -> Prompts:
    return Prompts(lambda text: [2 + ord(c) % 60 for c in text], lambda text: text, [0], END)


def test_quality_is_each_condition_computed_plainly(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator()
    chosen, scaling = passages(11, 5), generator.config.scaling
    quality = Quality(generator.base, prompts(), chosen, scaling, decode=lambda ids: " ".join(map(str, ids)))
    tally = quality.measure(lambda ids: generator.contextualize(ids).lora())
    assert {len(parts) for parts in tally.sums.values()} == {len(chosen)}
    for i in (0, 10):
        rows = Rows(generator.base, scaling)
        first, second = chosen[i].ids[:6], chosen[i].ids[6:]
        own, half = (generator.contextualize(ids).lora() for ids in (chosen[i].ids, first))
        other = generator.contextualize(chosen[another_title(chosen, i)].ids).lora()
        asked, answer = prompts().question(chosen[i].questions[0], "phrase")
        expected = {
            ("completion", "prompt"): Row([0, *first], second),
            ("completion", "own"): Row([0], second, half),
            ("reconstruction", "own"): Row([0], chosen[i].ids, own),
            ("unrelated text", "other"): Row([0], chosen[i].ids, other),
            ("answers", "other"): Row(asked, answer, other),
            ("answers", "prompt"): Row(prompts().question(chosen[i].questions[0], "phrase", chosen[i].ids)[0], answer),
        }
        for key, row in expected.items():
            assert tally.sums[key][i][0] == pytest.approx(rows.losses([row])[0].sum().item(), rel=1e-4), key


def test_another_document_is_of_another_article() -> None:
    chosen = passages(40, 7)
    assert all(chosen[another_title(chosen, i)].title != chosen[i].title for i in range(40))


def test_a_long_document_holds_its_passages_whole_and_no_others_that_are_asked() -> None:
    pool = passages(60, 30, length=150)
    chosen = pool[:19]
    packs = pack(chosen, pool, [63], seed=0)
    assert [i for one in packs for i in one.members] == list(range(19))
    for one in packs:
        assert TOKENS <= len(one.ids) <= TOKENS + 20
        text = ",".join(map(str, one.ids))
        held = [i for i, passage in enumerate(chosen) if ",".join(map(str, passage.ids)) in text]
        assert held == one.members


def test_intervals_come_from_groups_not_from_documents() -> None:
    # Two articles of fifty equal documents each: as documents the mean would be near certain; as articles it is not.
    parts = {"x": [(float(i % 2), 1.0) for i in range(100)]}
    figure = bootstrap(parts, [str(i % 2) for i in range(100)], {"mean": lambda totals: mean_of(totals["x"])})["mean"]
    assert figure == {"mean": 0.5, "low": 0.0, "high": 1.0}


def test_the_summary_says_what_was_recovered() -> None:
    tally = Tally()
    losses = {"closed": 5.0, "prompt": 1.0, "own": 2.0, "other": 4.0}
    for condition, loss in losses.items():
        for text in ("answers", "unrelated text", "completion"):
            tally.sums[text, condition] = [(loss * 3, 3)] * 4
    summary = summarize(tally, passages(4, 4))["summary"]
    assert summary["knowledge_recovered"] == {"mean": 0.5, "low": 0.5, "high": 0.5}
    assert summary["harm_answers"]["mean"] == -1.0
