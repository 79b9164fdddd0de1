"""Training optimizes what inference uses: the same adapters, with a true gradient, and a loss that falls."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from generator.generator import Generator
from generator.model import GeneratorNetwork
from generator.training import associative, polar
from generator.training.data import Mixture, Passage, Question, load_passages
from generator.training.frozen import FrozenModel
from generator.training.journal import Journal
from generator.training.objectives import Prompts, divergence, top_divergence
from generator.training.polar import polar_with_gradient
from generator.training.settings import DataSettings, GeneratorSettings, ObjectiveSettings, TrainingSettings
from generator.training.step import Adapters, Step

OPTIONS: dict[str, Any] = {"key_shift": 1, "value_source": "embedding", "prefix_ids": (0,), "layers": (1, 2)}


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(1, 64, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def test_the_polar_factors_gradient_is_the_true_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(polar, "_DAMPING_SHARE", 0.0)
    s = torch.randn(2, 4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def polar_factor(states: Tensor) -> Tensor:
        u, p = polar_with_gradient(states, 4)
        return u @ p

    assert torch.autograd.gradcheck(polar_factor, (s,))


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


class Words:
    """A tokenizer's stand-in for the formats: one id a character."""

    def tokenize(self, text: str) -> list[int]:
        return [ord(c) % 64 for c in text]


PASSAGES = [Passage("t", ids(30, 50 + i), "s", [Question("who?", [f"n{i}"])]) for i in range(4)]
DATA = DataSettings("none", {}, passages=4, grouping=(1, 2), questions=1)


def make_step(
    generator: Generator, objectives: ObjectiveSettings | None = None, gradient_checkpointing: bool = False
) -> Step:
    """A step that trains a fresh network from the associative start."""
    torch.manual_seed(0)
    network = GeneratorNetwork(generator.config)
    associative.initialize(network, generator.base, [ids(60, seed) for seed in range(8)])
    settings = TrainingSettings(GeneratorSettings("tiny", (1, 2)), DATA, objectives or ObjectiveSettings())
    prompts = Prompts(Words().tokenize, lambda text: text, [0], 1)
    frozen = FrozenModel(generator.base, generator.config, gradient_checkpointing)
    return Step(frozen, network, prompts, settings)


@pytest.mark.parametrize("norm", ["svd", "frobenius"])
@pytest.mark.parametrize("strategy", ["concat", "parallel", "sequential"])
def test_a_few_steps_lower_the_loss(tiny_generator: Callable[..., Generator], strategy: str, norm: str) -> None:
    generator = tiny_generator(window=32, strategy=strategy, norm=norm, **OPTIONS)
    step = make_step(generator, ObjectiveSettings(distillation=0.5, top_k=8))
    gains = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.Adam([*step.network.parameters(), gains], lr=1e-2)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss, means = step(PASSAGES, gains, random.Random(0))
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    objectives = {"answers", "reconstruction", "completion", "distillation", "unrelated_text", "unrelated_question"}
    assert set(means) == objectives
    assert losses[-1] < 0.97 * losses[0]


def test_checkpointed_layers_have_the_same_gradient(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator(window=32, **OPTIONS)
    found = []
    for checkpointing in (False, True):
        step = make_step(generator, gradient_checkpointing=checkpointing)
        loss, _ = step(PASSAGES, torch.nn.Parameter(torch.zeros(2)), random.Random(0))
        loss.backward()  # type: ignore[no-untyped-call]
        found.append([p.grad for p in step.network.parameters()])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)


def test_top_divergence_is_the_divergence_when_all_tokens_are_in_it() -> None:
    student, teacher = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)).unbind()
    whole = divergence(student, teacher)
    assert abs(top_divergence(student, teacher, 15) - whole) < 1e-4 * whole
    assert 0 < top_divergence(student, teacher, 4) < whole


WORKER = """
import torch
from generator.training.parallel import Workers
workers = Workers.join("cpu")
weight = torch.nn.Parameter(torch.full((2,), 5.0 + workers.rank))
unused = torch.nn.Parameter(torch.ones(1))
workers.same_start([weight, unused])
weight.grad = torch.full((2,), 1.0 + workers.rank)
workers.average_gradients([weight, unused])
workers.wait()
assert weight.tolist() == [5.0, 5.0] and weight.grad.tolist() == [1.5, 1.5] and unused.grad.tolist() == [0.0]
"""


def test_processes_share_start_and_gradients(tmp_path: Path) -> None:
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py")], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_journal_draws_what_it_wrote(tmp_path: Path) -> None:
    with Journal(tmp_path, steps=2, first=True) as journal:
        journal.step(1, 0.5, 2.0, {"answers": 3.0})
        journal.held_out(1, {f"answers/{c}": 1.0 for c in ("closed", "other", "prompt", "own")})
    assert len((tmp_path / "log.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "losses.png").stat().st_size > 1000


def test_every_passage_comes_before_one_comes_again() -> None:
    passages = [Passage(str(i), [i], "s") for i in range(16)]
    mixture = Mixture({"s": passages}, {"s": 1.0}, seed=3)
    drawn = [p.title for step in range(2) for p in mixture.draw(step, 8)]
    assert sorted(drawn, key=int) == [str(i) for i in range(16)]
    assert [p.title for p in mixture.draw(1, 8)] == drawn[8:]  # resumable


def test_evaluation_files_are_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="evaluation only"):
        load_passages(tmp_path, "qa-evalonly-squadshifts", "train", Words().tokenize)
