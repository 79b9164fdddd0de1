"""The polar factor, cut to k: against an SVD, for matrices of every rank."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from generator.factors import _singular_vectors_of_a_batch, polar_factors

RANK = 24


def on_a_gpu(s: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """What a GPU computes, here."""
    u, v = _singular_vectors_of_a_batch(s[None].double(), rank)
    return u[0].float(), v[0].float()


def matrix(rows: int, columns: int, rank: int, spread: float = 2.0) -> Tensor:
    """Singular values from 1 down by `spread` decades, and float32's rounding, as a sum over a document's tokens has them."""
    sides = [torch.linalg.qr(torch.randn(n, rank, dtype=torch.float64))[0] for n in (rows, columns)]
    return ((sides[0] * torch.logspace(0, -spread, rank, dtype=torch.float64)) @ sides[1].mT).float()


@pytest.mark.parametrize("factors", [polar_factors, on_a_gpu])
@pytest.mark.parametrize("shape", [(128, 128), (96, 160), (160, 96)], ids=str)
@pytest.mark.parametrize("rank", [1, 10, 40, 90])
def test_the_leading_directions_are_those_of_an_svd(
    shape: tuple[int, int], rank: int, factors: Callable[[Tensor, int], tuple[Tensor, Tensor]]
) -> None:
    torch.manual_seed(rank)
    s = matrix(*shape, rank)
    u, v = factors(s, RANK)
    assert (u.shape, v.shape) == ((shape[0], RANK), (shape[1], RANK))
    left, singular, right = torch.linalg.svd(s.double(), full_matrices=False)
    count = min(rank, RANK)
    torch.testing.assert_close((u @ v.mT).double(), left[:, :count] @ right[:count], atol=2e-4, rtol=0)
    # What is not there is left empty, and nothing else is.
    assert (torch.linalg.vector_norm(u, dim=0) > 0).sum() == count
    assert singular[count - 1] > 0.009


@pytest.mark.parametrize("factors", [polar_factors, on_a_gpu])
def test_a_spread_of_four_decades_keeps_every_direction(
    factors: Callable[[Tensor, int], tuple[Tensor, Tensor]],
) -> None:
    torch.manual_seed(0)
    s = matrix(40, 60, RANK, spread=4.0)
    u, v = factors(s, RANK)
    left, _, right = torch.linalg.svd(s.double(), full_matrices=False)
    torch.testing.assert_close((u @ v.mT).double(), left[:, :RANK] @ right[:RANK], rtol=0, atol=1e-2)


@pytest.mark.parametrize("spread", [0.2, 3.0, 5.0])
@pytest.mark.parametrize("largest", [1.0, 10.0])
@pytest.mark.parametrize("shape", [(300, 320), (320, 300)], ids=str)
def test_large_matrices_as_well(shape: tuple[int, int], largest: float, spread: float) -> None:
    """Whether float32 is enough for them or not: level ones leave the leading directions close to the others."""
    torch.manual_seed(1)
    s = matrix(*shape, 290, spread)
    s += (largest - 1) * torch.outer(torch.ones(shape[0]), torch.ones(shape[1])) / (shape[0] * shape[1]) ** 0.5
    u, v = polar_factors(s, RANK)
    left, _, right = torch.linalg.svd(s.double(), full_matrices=False)
    torch.testing.assert_close((u @ v.mT).double(), left[:, :RANK] @ right[:RANK], atol=2e-4, rtol=0)


def test_each_matrix_of_a_batch_is_decomposed_as_if_alone() -> None:
    torch.manual_seed(0)
    batch = torch.stack([matrix(96, 96, rank) for rank in (3, 30, 96)])
    for together, s in zip(zip(*polar_factors(batch, RANK), strict=True), batch, strict=True):
        for one, other in zip(together, polar_factors(s, RANK), strict=True):
            assert torch.equal(one, other)


@pytest.mark.parametrize("factors", [polar_factors, on_a_gpu])
def test_nothing_remembered_is_an_empty_adapter(factors: Callable[[Tensor, int], tuple[Tensor, Tensor]]) -> None:
    u, v = factors(torch.zeros(64, 64), RANK)
    assert not u.any()
    assert not v.any()
