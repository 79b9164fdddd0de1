"""Normalization of S and its factorization, batched over layers: S^ = U V^T."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn.functional import pad

from generator.config import GeneratorConfig, TargetModule

T = TypeVar("T")

# Singular values below this share of the largest are rounding: a document of T tokens gives an S of rank <= T, and the
# singular vectors of the empty rest are arbitrary (they would make the adapter depend on noise).
NULL_SHARE = 1e-5
# Directions that a basis has beyond those that it is for, and what one for a matrix of low rank may leave out of it, as a share
# of the matrix: more than float32's rounding in S (some 1e-7), less than any singular value that counts.
_SPARE = 16
_LEFT_OUT = 3e-6
# Rows from which the eigenproblem is solved in float32, once as many leading directions as `_SPARE` are taken out of it. What a
# pair of singular vectors may be off then, as a share of the smallest singular value kept: documents' are at some 1e-4.
_MANY_ROWS = 256
_OFF = 1e-3
# On a GPU: rows of the block that is iterated, as a share of the rank, and rounds. The rank's last direction converges by
# (s_192 / s_128)^16 where the rank is 128: on documents' states the factors are an SVD's to 1e-5.
_BLOCK_SHARE = 1.5
_ROUNDS = 8
# Added to a Gram matrix, as a share of its trace, so that directions which are not there can be divided by.
_JITTER = 1e-13
# Entries of the matrices that a GPU takes at once: half a gigabyte in float64.
_BATCH_ENTRIES = 1 << 26


def factorize(states: Tensor, config: GeneratorConfig) -> tuple[Tensor, Tensor]:
    """Factors of the normalized states.

    states: ... x r1 x r2, float32. Returns U (... x r1 x k) and V (... x r2 x k), float32, with S^ = U V^T:
    `svd` makes every one of the k leading singular values 1 (the polar factor, cut), `frobenius` and `spectral` divide S
    by its Frobenius norm and by its largest singular value.
    """
    if config.norm == "svd":
        return polar_factors(states, config.rank)
    if config.norm == "frobenius":
        norm = torch.linalg.matrix_norm(states, ord="fro", keepdim=True)
    else:
        norm = torch.linalg.matrix_norm(states, ord=2, keepdim=True)
    scaled = states / norm.clamp_min(torch.finfo(states.dtype).tiny)
    eye = torch.eye(config.rank, dtype=states.dtype, device=states.device)
    if config.r1 <= config.r2:  # S^ = I S^
        return eye.expand(*states.shape[:-2], -1, -1).clone(), scaled.mT.contiguous()
    return scaled, eye.expand(*states.shape[:-2], -1, -1).clone()


def polar_factors(states: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The `rank` leading singular vectors of each S, those of zero singular values set to zero.

    states: ... x r1 x r2. From a symmetric eigenproblem (several times quicker than an SVD): of the smaller Gram matrix in
    float64, since squaring costs half of the digits, or of a part of it for which float32 is shown to be enough. On a CPU
    deterministic: the same bits for the same S, whatever else is in the batch, because each matrix is decomposed on its own, by
    one thread.
    """
    flat = states.reshape(-1, *states.shape[-2:])
    if flat.device.type == "cpu":
        with _a_thread_for_each(flat) as each:
            pairs = list(each(lambda matrix: _leading_singular_vectors(matrix, rank), flat))
        u, v = (torch.stack(parts).to(states.dtype) for parts in zip(*pairs, strict=True))
    else:
        some = max(1, _BATCH_ENTRIES // flat[0].numel())
        batches = [flat[start : start + some] for start in range(0, len(flat), some)]
        pairs = [_singular_vectors_of_a_batch(batch.double(), rank) for batch in batches]
        u, v = (torch.cat(parts).to(states.dtype) for parts in zip(*pairs, strict=True))
    return u.reshape(*states.shape[:-2], *u.shape[-2:]), v.reshape(*states.shape[:-2], *v.shape[-2:])


@contextmanager
def _a_thread_for_each(matrices: Tensor) -> Iterator[Callable[[Callable[[Tensor], T], Tensor], Iterable[T]]]:
    """Gives a `map`. An eigenproblem of some hundred rows gains little from a second core, several of them much: on a CPU
    as many at once as torch has threads, each with one."""
    threads = torch.get_num_threads()
    if matrices.device.type != "cpu" or threads == 1:
        yield map
        return
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(min(threads, len(matrices))) as pool:
            yield pool.map
    finally:
        torch.set_num_threads(threads)


def _leading_singular_vectors(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U_k (r1 x k) and V_k (r2 x k) of one r1 x r2 matrix."""
    if matrix.shape[0] > matrix.shape[1]:
        v, u = _leading_singular_vectors(matrix.mT, rank)
        return u, v
    few = _projected_on_few(matrix)
    if few is not None:
        return _in_basis(*few, rank)
    if matrix.shape[0] >= _MANY_ROWS:
        basis = _basis_of_leading(matrix, rank)
        factors = _in_basis(basis, basis.mT @ matrix, rank)
        if _are_singular_vectors(matrix, *factors):
            return factors
    return _in_basis(None, matrix, rank)


def _in_basis(basis: Tensor | None, core: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U_k and V_k of basis (r1 x n, orthonormal columns) times core (n x r2), from an eigenproblem in float64."""
    double = core.double()
    # By descending eigenvalue; laid out anew, since a product with columns in reverse order takes three times as long.
    vectors = torch.linalg.eigh(double @ double.mT)[1][:, -rank:].flip(-1).contiguous()
    u, v = _factors_of(double, vectors, None if basis is None else basis.double(), rank)
    return u.to(core), v.to(core)


def _factors_of(core: Tensor, vectors: Tensor, basis: Tensor | None, rank: int) -> tuple[Tensor, Tensor]:
    """U_k and V_k of `basis` times `core` (... x n x r2), from the core's leading left singular vectors (... x n x k)."""
    projected = core.mT @ vectors  # r2 x k: V_k times the singular values
    singular = torch.linalg.vector_norm(projected, dim=-2, keepdim=True)
    kept = singular > NULL_SHARE * singular[..., :1].clamp_min(torch.finfo(core.dtype).tiny)
    inverse = torch.where(kept, 1 / torch.where(kept, singular, 1), 0)
    u, v = vectors if basis is None else basis @ vectors, projected * inverse
    # The largest entry of each u is made positive: an eigenvector's sign is otherwise up to the library.
    sign = torch.sign(u.gather(-2, u.abs().argmax(-2, keepdim=True)))
    missing = (0, rank - u.shape[-1])  # directions that a matrix of lower rank does not have
    return pad(u * sign * kept, missing), pad(v * sign, missing)


def _singular_vectors_of_a_batch(matrices: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U_k and V_k of N matrices at once, as a GPU wants them: N x r1 x r2 in float64.

    A GPU's eigensolver takes one matrix after the other (4.5 ms each at 512 rows on an H200, in a batch or not), its products
    take all at once: subspace iteration narrows each to a core of some more rows than the rank, and the cores' small
    eigenproblems are solved side by side on the CPU.
    """
    r1, r2 = matrices.shape[-2:]
    if r1 > r2:
        v, u = _singular_vectors_of_a_batch(matrices.mT, rank)
        return u, v
    scaled = matrices / torch.linalg.matrix_norm(matrices, keepdim=True).clamp_min(torch.finfo(matrices.dtype).tiny)
    basis = _orthonormal(scaled @ _probe(r2, min(r1, int(_BLOCK_SHARE * rank))).to(scaled))
    for _ in range(_ROUNDS):
        basis = _orthonormal(scaled @ _orthonormal(scaled.mT @ basis))
    basis = _orthonormal(basis)  # once more: the first division loses what a wide spectrum squared hides
    core = basis.mT @ scaled
    grams = (core @ core.mT).cpu()
    with _a_thread_for_each(grams) as each:
        solved = list(each(lambda gram: torch.linalg.eigh(gram)[1], grams))
    vectors = torch.stack(solved)[..., -rank:].flip(-1).to(matrices.device)
    return _factors_of(core, vectors, basis, rank)


def _orthonormal(columns: Tensor) -> Tensor:
    """N x r x b -> an orthonormal basis of each matrix' columns, through the Cholesky factor of its Gram matrix."""
    gram = columns.mT @ columns
    diagonal = gram.diagonal(dim1=-2, dim2=-1)
    diagonal.add_(_JITTER * diagonal.sum(-1, keepdim=True) + torch.finfo(gram.dtype).tiny)
    lower = torch.linalg.cholesky_ex(gram)[0]
    basis: Tensor = torch.linalg.solve_triangular(lower, columns.mT, upper=False).mT
    return basis


def _projected_on_few(matrix: Tensor) -> tuple[Tensor, Tensor] | None:
    """Q (r1 x n, orthonormal columns) and Q^T M with M = Q Q^T M, for an r1 x r2 matrix M of rank below r1 / 2; else None.

    S has no higher rank than its document has distinct tokens: that of a passage is decomposed at its own size, several times
    quicker (randomized range finder, arXiv 0909.4061, with what it leaves out measured and not estimated).
    """
    most = matrix.shape[0] // 2
    probe = _probe(matrix.shape[1], most).to(matrix)
    few = matrix[:most] @ probe  # half of the rows tell the rank, nearly for nothing
    pivots = torch.linalg.qr(few, mode="r")[1].diagonal().abs()
    width = int((pivots > NULL_SHARE * pivots.max()).sum()) + _SPARE
    if width > most:
        return None
    basis: Tensor = torch.linalg.qr(matrix @ probe[:, :width])[0]
    core = basis.mT @ matrix
    left_out = torch.linalg.vector_norm(matrix - basis @ core)
    return (basis, core) if left_out < _LEFT_OUT * torch.linalg.vector_norm(matrix) else None


def _basis_of_leading(matrix: Tensor, rank: int) -> Tensor:
    """Q (r1 x n, orthonormal columns) that holds the `rank` leading left singular vectors of an r1 x r2 matrix in float32.

    The largest singular values of S are so much larger than those that count (8 and 1,000 times) that their squares leave
    float32 no digits for the others. So the first directions are found by subspace iteration and taken out; the rest is
    level enough for its Gram matrix and an eigenproblem in float32, which take half of float64's time.
    """
    scaled = matrix / matrix.abs().max().clamp_min(torch.finfo(matrix.dtype).tiny)  # squares of anything fit
    first = torch.linalg.qr(scaled @ _probe(matrix.shape[1], _SPARE).to(matrix))[0]
    for _ in range(2):
        first = torch.linalg.qr(scaled @ (scaled.mT @ first))[0]
    rest = scaled - first @ (first.mT @ scaled)
    vectors = torch.linalg.eigh(rest @ rest.mT)[1][:, -(rank + _SPARE) :]
    basis: Tensor = torch.linalg.qr(torch.cat((first, vectors), 1))[0]
    return basis


def _are_singular_vectors(matrix: Tensor, u: Tensor, v: Tensor) -> bool:
    """Whether M v = s u, nearly, for every pair of them."""
    images = matrix @ v
    singular = (u * images).sum(0)
    off = torch.linalg.vector_norm(images - u * singular, dim=0)
    return bool(off.max() <= _OFF * singular.min())


@cache
def _probe(rows: int, width: int) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def expand(
    targets: Sequence[TargetModule], u: Tensor, v: Tensor, a1: Sequence[Tensor], b: Sequence[Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """lora_A = U^T A1 (k x d_in) and lora_B = B V (d_out x k) of every target, as precise as A1 and B.

    u: M x r1 x k; v: M x r2 x k; a1: r1 x d_in and b: d_out x r2 of each target.
    """
    parts = zip(targets, u, v, a1, b, strict=True)
    return {t.name: (u_t.mT.to(a1_t) @ a1_t, b_t @ v_t.to(b_t)) for t, u_t, v_t, a1_t, b_t in parts}
