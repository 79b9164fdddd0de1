"""Means with bootstrap intervals: whole groups (articles, conversations) are drawn with replacement."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 1000
_LOW, _HIGH = 2.5, 97.5

Array = NDArray[np.float64]
# A figure from the totals of every measure, each `... x 2` (sum, count): computed for all resamples at once.
Figure = Callable[[Mapping[Any, Array]], Array]


def mean_of(totals: Array) -> Array:
    """Sum over count, 0 where nothing was counted. totals: ... x 2."""
    result: Array = totals[..., 0] / np.maximum(totals[..., 1], 1e-9)
    return result


def bootstrap(
    parts: Mapping[Any, Sequence[tuple[float, float]]],
    groups: Sequence[str],
    figures: Mapping[str, Figure],
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """Each figure with its 95 % interval.

    parts: for every measure the (sum, count) of each document; groups: the group of each document, in the same order.
    """
    names = sorted(set(groups))
    member = np.array([names.index(group) for group in groups])
    totals = {}
    for key, values in parts.items():
        totals[key] = np.zeros((len(names), 2))
        np.add.at(totals[key], member, np.array(values, dtype=np.float64))
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_RESAMPLES)
    drawn = {key: draws @ value for key, value in totals.items()}
    whole = {key: value.sum(0) for key, value in totals.items()}
    summary = {}
    for name, figure in figures.items():
        low, high = np.percentile(figure(drawn), [_LOW, _HIGH])
        summary[name] = {
            "mean": round(float(figure(whole)), 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
        }
    return summary
