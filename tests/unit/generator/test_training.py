"""Training optimizes what inference uses: the same adapters, with a true gradient, and a loss that falls."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from generator.generator import Generator
from generator.model import GeneratorNetwork
from generator.training import associative, polar
from generator.training.data import Mixture, Passage, Question, load_passages
from generator.training.frozen import FrozenModel
from generator.training.objectives import Prompts
from generator.training.polar import polar_factor
from generator.training.settings import DataSettings, GeneratorSettings, TrainingSettings
from generator.training.step import Adapters, Step

OPTIONS: dict[str, Any] = {"key_shift": 1, "value_source": "embedding", "prefix_ids": (0,), "layers": (1, 2)}


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(1, 64, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_the_polar_factors_gradient_is_the_true_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polar, "_DAMPING_SHARE", 0.0)
    m = torch.randn(2, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    assert torch.autograd.gradcheck(polar_factor, (m,))


@pytest.mark.parametrize("length", [3, 8, 14, 40])
def test_adapters_in_training_are_those_of_inference(tiny_generator: Callable[..., Generator], length: int) -> None:
    generator = tiny_generator(window=64, **OPTIONS)
    document = ids(length, seed=length)
    document[1::3] = document[0:1] * len(document[1::3])  # repeated tokens: fewer directions than tokens
    chunk = FrozenModel(generator.base, generator.config).read([document])[0]
    trained = Adapters(generator.network, torch.zeros(2), [[(chunk, length)]])
    for name, (a, b) in generator.contextualize(document, "parallel").lora().items():
        a_trained, b_trained = trained.weights[name]
        torch.testing.assert_close(b_trained[0] @ a_trained[0], b @ a, rtol=1e-3, atol=1e-3)


def test_a_spread_of_four_decades_keeps_every_direction() -> None:
    left, right = (torch.linalg.qr(torch.randn(n, 8, dtype=torch.float64))[0] for n in (12, 20))
    singular = torch.logspace(0, -4, 8, dtype=torch.float64)
    m = (left * singular) @ right.mT
    torch.testing.assert_close(polar_factor(m[None].float())[0].double(), left @ right.mT, rtol=1e-2, atol=1e-2)


class Words:
    """A tokenizer's stand-in for the formats: one id a character."""

    def tokenize(self, text: str) -> list[int]:
        return [ord(c) % 64 for c in text]


def test_a_few_steps_lower_the_loss(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator(window=32, **OPTIONS)
    torch.manual_seed(0)
    network = GeneratorNetwork(generator.config)
    associative.initialize(network, generator.base, [ids(60, seed) for seed in range(8)])
    settings = TrainingSettings(
        GeneratorSettings("tiny", (1, 2)), DataSettings("none", {}, passages=4, grouping=(1, 2), questions=1)
    )
    words = Words()
    prompts = Prompts(words.tokenize, lambda text: text, [0], 1)
    passages = [Passage("t", ids(30, 50 + i), "s", [Question("who?", [f"n{i}"])]) for i in range(4)]
    gains = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*network.parameters(), gains], lr=1e-2)
    step = Step(FrozenModel(generator.base, generator.config), network, prompts, settings)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss, means = step(passages, gains, random.Random(0))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    assert set(means) == {"answers", "reconstruction", "completion", "unrelated_text", "unrelated_question"}
    assert losses[-1] < 0.97 * losses[0]


def test_every_passage_comes_before_one_comes_again() -> None:
    passages = [Passage(str(i), [i], "s") for i in range(16)]
    mixture = Mixture({"s": passages}, {"s": 1.0}, seed=3)
    drawn = [p.title for step in range(2) for p in mixture.draw(step, 8)]
    assert sorted(drawn, key=int) == [str(i) for i in range(16)]
    assert [p.title for p in mixture.draw(1, 8)] == drawn[8:]  # resumable


def test_evaluation_files_are_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluation only"):
        load_passages(tmp_path, "qa-evalonly-squadshifts", "train", Words().tokenize)
