"""Answers against gold answers, as SQuAD's official script defines it (version 2.0: empty answers count)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize(answer: str) -> str:
    """Lower case, without ASCII punctuation, English articles and surplus white space."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, gold: list[str]) -> float:
    """1 where the prediction is one of the gold answers, normalized."""
    return _best(prediction, gold, lambda a, b: float(a == b))


def token_f1(prediction: str, gold: list[str]) -> float:
    """Harmonic mean of the share of predicted words that are gold and the share of gold words that are predicted: the best
    over all gold answers."""
    return _best(prediction, gold, _f1)


def _f1(prediction: str, gold: str) -> float:
    predicted, expected = prediction.split(), gold.split()
    if not predicted or not expected:
        return float(predicted == expected)
    common = (Counter(predicted) & Counter(expected)).total()
    return 2 * common / (len(predicted) + len(expected))


def _best(prediction: str, gold: list[str], measure: Callable[[str, str], float]) -> float:
    # Gold answers that normalize to nothing ("The") are dropped; a question left without any has no answer.
    expected = [answer for answer in map(normalize, gold) if answer] or [""]
    return max(measure(normalize(prediction), answer) for answer in expected)
