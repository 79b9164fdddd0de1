"""The generator against the method written down naively: all hidden states kept, full SVD, full weight changes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from generator.generator import Generator

STRATEGIES = ("concat", "parallel", "sequential")


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight


def naive_delta(generator: Generator, ids: list[int], strategy: str) -> dict[str, Tensor]:
    """{module: full d_out x d_in weight change}, from the formulas alone."""
    config = generator.config
    count = 1 if strategy == "concat" else -(-len(ids) // config.window)
    size = -(-len(ids) // count)
    original = {t.name: generator.base.get_submodule(t.name).weight.detach().clone() for t in config.targets}
    sums = {t.name: torch.zeros(config.r1, config.r2) for t in config.targets}
    delta: dict[str, Tensor] = {}
    for start in range(0, len(ids), size):
        chunk = [*config.prefix_ids, *ids[start : start + size]]
        if strategy == "sequential" and start:
            for name, change in delta.items():
                generator.base.get_submodule(name).weight.data = original[name] + change
        with torch.no_grad():
            hidden = generator.base(torch.tensor([chunk]), output_hidden_states=True).hidden_states
        for t, g in zip(config.targets, generator.network.generators, strict=True):
            generator.base.get_submodule(t.name).weight.data = original[t.name]
            skip = len(config.prefix_ids)
            n = rms(hidden[t.layer][0, skip:], g.norm, config.norm_eps)
            e = rms(hidden[0][0, skip:], g.norm, config.norm_eps)
            k, v = n @ g.A2.T, (e if config.value_source == "embedding" else n) @ g.A3.T
            for position in range(config.key_shift, len(k)):
                sums[t.name] += torch.outer(k[position - config.key_shift], v[position])
            delta[t.name] = config.alpha / config.r2 * g.B @ naive_norm(sums[t.name], config).T @ g.A1
    return delta


def naive_norm(s: Tensor, config: Any) -> Tensor:
    u, singular, vt = torch.linalg.svd(s.double(), full_matrices=False)
    if config.norm == "frobenius":
        return s / s.norm()
    if config.norm == "spectral":
        return s / singular[0].float()
    keep = [i for i in range(min(config.max_rank, len(singular))) if singular[i] > 1e-5 * singular[0]]
    return (u[:, keep] @ vt[keep]).float()


def check(generator: Generator, ids: list[int], strategy: str) -> None:
    adapter = generator.contextualize(ids, strategy)
    expected = naive_delta(generator, ids, strategy)
    for name, (a, b) in adapter.lora().items():
        torch.testing.assert_close(b @ a * adapter.scaling, expected[name], rtol=1e-4, atol=1e-4)
        assert expected[name].abs().max() > 1e-2  # a comparison of zeros would pass too


def document(length: int, seed: int = 0) -> list[int]:
    return torch.randint(0, 64, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.mark.parametrize("architecture", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_architectures_and_strategies(
    tiny_generator: Callable[..., Generator], architecture: str, strategy: str
) -> None:
    check(tiny_generator(architecture), document(43), strategy)


@pytest.mark.parametrize(
    "settings",
    [
        {"modules": ("o_proj", "down_proj", "q_proj", "v_proj")},
        {"norm": "frobenius"},
        {"norm": "spectral", "r1": 8},
        {"key_shift": 1, "value_source": "embedding", "prefix_ids": (0, 3), "layers": (1, 2)},
        {"max_rank": 100},
    ],
    ids=lambda settings: "-".join(settings),
)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_options(tiny_generator: Callable[..., Generator], settings: dict[str, Any], strategy: str) -> None:
    check(tiny_generator(**settings), document(35), strategy)


@pytest.mark.parametrize("length", [1, 2, 5])
def test_documents_shorter_than_the_rank(tiny_generator: Callable[..., Generator], length: int) -> None:
    check(tiny_generator(), document(length), "parallel")


@pytest.mark.parametrize("batch_tokens", [1, 40, 1000])
def test_a_batch_gives_what_each_gives_alone(tiny_generator: Callable[..., Generator], batch_tokens: int) -> None:
    generator = tiny_generator(key_shift=1, value_source="embedding", prefix_ids=(0,))
    documents = [document(length, seed=length) for length in (3, 50, 17, 16, 1)]
    alone = [generator.contextualize(d, "parallel") for d in documents]
    generator.encoder.batch_tokens = batch_tokens
    for one, many in zip(alone, generator.contextualize(documents, "parallel"), strict=True):
        assert (one.tokens, one.chunks) == (many.tokens, many.chunks)
        for a, b in zip(one.lora().values(), many.lora().values(), strict=True):
            torch.testing.assert_close(a[1] @ a[0], b[1] @ b[0], rtol=1e-4, atol=1e-4)


def test_the_same_document_gives_the_same_bytes(tiny_generator: Callable[..., Generator]) -> None:
    generator = tiny_generator()
    first = generator.contextualize(document(40)).to_bytes()
    generator.contextualize(document(11))
    second = generator.contextualize([document(9), document(40)])[1].to_bytes()
    assert first == second


@pytest.mark.parametrize("strategy", ["parallel", "sequential"])
def test_a_document_read_in_two_calls_is_the_document(tiny_generator: Callable[..., Generator], strategy: Any) -> None:
    generator = tiny_generator()
    ids = document(48)  # three chunks of 16
    whole = generator.factorize(generator.encode([ids], strategy))[0]
    begun = generator.encode([ids[:16]], strategy)
    grown = generator.factorize(generator.encode([ids[16:]], strategy, states=begun))[0]
    torch.testing.assert_close(grown.u @ grown.v.mT, whole.u @ whole.v.mT, rtol=1e-4, atol=1e-4)
    assert (grown.tokens, grown.chunks) == (48, 3)
    assert begun[0].tokens == 16  # the parent's state is untouched
