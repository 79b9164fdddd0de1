"""Products of a few rows as fast as memory gives the weights, compiled by numba: y += scale * B A x for those of many adapters
at once, and y = x w^T.

torch's batched product packs a slot's weights anew for the one to eight rows that a step of generation has for it, and reads
all slots between the first and the last. Here the weights of the slots in use are read once, as they lie, and each meets four
rows. Numba is a dependency of vLLM's own, and its OpenMP threads are torch's.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

# Numba counts the cores that this thread may run on when it is imported: one, where vLLM has bound each thread to its own.
os.environ.setdefault("NUMBA_NUM_THREADS", str(torch.get_num_threads()))

from llvmlite import ir
from numba import config, njit, prange, types
from numba.extending import intrinsic

Array = np.ndarray[Any, Any]

# numpy has no bfloat16: it sees the bits.
_SEEN_AS = {torch.bfloat16: torch.uint16, torch.float32: torch.float32}
_TYPES = {torch.bfloat16: types.uint16, torch.float32: types.float32}
DTYPES = frozenset(_TYPES)
# Rows of A, and rows of B, that a thread takes at a time.
_A_ROWS, _B_ROWS = 16, 64
# Sums in any order, but infinities and NaN are what they are.
_MATH = {"reassoc", "contract", "nsz"}
_ZERO = np.float32(0)
_WORD = ir.IntType(32)

config.THREADING_LAYER = "omp"  # any other pool would wait for torch's to stop spinning


class Work(NamedTuple):
    """The rows of a step that one product is for, in order of their slot."""

    rows: Array  # numbers of rows of x and y
    starts: Array  # group k is rows[starts[k]:starts[k + 1]]
    slots: Array  # of each group
    ranks: Array  # of each group's adapter, 0 where it does not touch this layer
    column: int  # of y, where the product begins


def fits(*tensors: Tensor) -> bool:
    """Whether the kernel can take these."""
    return all(t.dtype == tensors[0].dtype and t.dtype in DTYPES and t.is_contiguous() for t in tensors)


def seen(tensor: Tensor) -> Array:
    """The tensor's memory as the kernel takes it."""
    array: Array = tensor.view(_SEEN_AS[tensor.dtype]).numpy()
    return array


@cache
def add_products(dtype: torch.dtype) -> Callable[[Array, Array, Array, Array, Work, float], None]:
    """(y, x, a, b, work, scale): y (N x d_out) += scale * B A x, in place, summed in float32, for the rows of `work`.

    x: N x d_in; a: S x R x d_in; b: S x width x R. Compiled on first use (some seconds) and kept on disk where there is a place.
    """
    numbers, stored = types.Array(types.int64, 1, "C"), _TYPES[dtype]
    two, three = types.Array(stored, 2, "C"), types.Array(stored, 3, "C")
    work = types.NamedTuple([*[numbers] * 4, types.int64], Work)
    return _compiled(types.void(two, two, three, three, work, types.float64), _add_products)


@cache
def product() -> Callable[[Array, Array, Array], None]:
    """(y, x, weights): y (N x d_out) = x weights^T, in float32.

    x: N x d_in in float32; weights: d_out x d_in in bfloat16. Compiled as `add_products` is.
    """
    two = types.Array(types.float32, 2, "C")
    return _compiled(types.void(two, two, types.Array(types.uint16, 2, "C")), _product)


def _compiled(signature: Any, function: Callable[..., None]) -> Callable[..., None]:
    if torch.get_num_threads() != config.NUMBA_NUM_THREADS:  # numba would set OpenMP's number, which is torch's as well
        raise RuntimeError(f"numba has {config.NUMBA_NUM_THREADS} threads, torch {torch.get_num_threads()}")
    options: dict[str, Any] = {"parallel": True, "fastmath": _MATH, "nogil": True}
    compiled: Callable[..., None]
    try:
        compiled = njit(signature, cache=True, **options)(function)
    except RuntimeError:  # there is no place for a cache
        compiled = njit(signature, **options)(function)
    return compiled


def _product(y: Any, x: Any, weights: Any) -> None:
    width = weights.shape[0]
    for block in prange((width + _A_ROWS - 1) // _A_ROWS):
        first = block * _A_ROWS
        _multiply(y, weights, x, 0, x.shape[0], first, min(first + _A_ROWS, width), x.shape[1])


def _add_products(y: Any, x: Any, a: Any, b: Any, work: Any, scale: float) -> None:
    rows, starts, slots, ranks, column = work
    d_in, width, factor = a.shape[2], b.shape[1], np.float32(scale)
    inputs = np.empty((rows.shape[0], d_in), np.float32)
    inner = np.empty((rows.shape[0], a.shape[1]), np.float32)  # A x
    delta = np.empty((rows.shape[0], width), np.float32)  # B A x
    for i in prange(rows.shape[0]):
        for j in range(d_in):
            inputs[i, j] = _widen(x[rows[i], j])
    a_blocks = (a.shape[1] + _A_ROWS - 1) // _A_ROWS
    for task in prange(slots.shape[0] * a_blocks):
        k, first = task // a_blocks, task % a_blocks * _A_ROWS
        last = min(first + _A_ROWS, ranks[k])
        _multiply(inner, a[slots[k]], inputs, starts[k], starts[k + 1], first, last, d_in)
    b_blocks = (width + _B_ROWS - 1) // _B_ROWS
    for task in prange(slots.shape[0] * b_blocks):
        k, first = task // b_blocks, task % b_blocks * _B_ROWS
        last = min(first + _B_ROWS, width)
        _multiply(delta, b[slots[k]], inner, starts[k], starts[k + 1], first, last, ranks[k])
    for i in prange(rows.shape[0]):
        for c in range(width):
            old = y[rows[i], column + c]
            y[rows[i], column + c] = _narrow(_widen(old) + factor * delta[i, c], old)


@njit(fastmath=_MATH, inline="always")
def _multiply(out: Any, weights: Any, x: Any, begin: int, end: int, first: int, last: int, n: int) -> None:
    """Columns `first` to `last` of out = x weights^T for rows `begin` to `end`; n entries of each count."""
    i = begin
    while i + 4 <= end:
        for r in range(first, last):
            out[i, r], out[i + 1, r], out[i + 2, r], out[i + 3, r] = _four_dots(weights[r], x, i, n)
        i += 4
    while i < end:
        for r in range(first, last):
            out[i, r] = _dot(weights[r], x[i], n)
        i += 1


@njit(fastmath=_MATH, inline="always")
def _four_dots(w: Any, x: Any, i: int, n: int) -> Any:
    """Of w with rows i to i + 3 of x."""
    x0, x1, x2, x3 = x[i], x[i + 1], x[i + 2], x[i + 3]
    d0 = d1 = d2 = d3 = _ZERO
    for j in range(n):
        weight = _widen(w[j])
        d0 += weight * x0[j]
        d1 += weight * x1[j]
        d2 += weight * x2[j]
        d3 += weight * x3[j]
    return d0, d1, d2, d3


@njit(fastmath=_MATH, inline="always")
def _dot(w: Any, x: Any, n: int) -> Any:
    result = _ZERO
    for j in range(n):
        result += _widen(w[j]) * x[j]
    return result


@intrinsic
def _widen(_context: Any, stored: Any) -> Any:
    """float32 of a stored number."""

    def generate(_c: Any, builder: ir.IRBuilder, _s: Any, args: Any) -> Any:
        if stored == types.float32:
            return args[0]
        return builder.bitcast(builder.shl(builder.zext(args[0], _WORD), _WORD(16)), ir.FloatType())

    return types.float32(stored), generate


@intrinsic
def _narrow(_context: Any, value: Any, like: Any) -> Any:
    """A float32 as a number like `like` is stored: to the nearest, ties to even."""

    def generate(_c: Any, builder: ir.IRBuilder, _s: Any, args: Any) -> Any:
        if like == types.float32:
            return args[0]
        bits = builder.bitcast(args[0], _WORD)
        even = builder.and_(builder.lshr(bits, _WORD(16)), _WORD(1))
        rounded = builder.add(builder.add(bits, _WORD(0x7FFF)), even)
        is_nan = builder.fcmp_unordered("uno", args[0], args[0])
        kept = builder.select(is_nan, _WORD(0x7FC00000), rounded)
        return builder.trunc(builder.lshr(kept, _WORD(16)), ir.IntType(16))

    return like(value, like), generate
