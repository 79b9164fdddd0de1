"""Where a task's documents come from: `qa-squad` (in the data folder) or `KIND:PATH` for a public set."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from generator.evaluation import public_sets, shared_sets
from generator.evaluation.items import Source

PUBLIC: dict[str, Callable[[Path], list[Source]]] = {
    "squad": public_sets.squad,
    "streamingqa": public_sets.streamingqa,
    "narrativeqa": public_sets.narrativeqa,
    "msc": public_sets.msc,
    "haystack": public_sets.haystack,
}
# A set of examples counts as classification up to so many different outputs.
_MAX_OPTIONS = 6
_MIN_EXAMPLES = 40
# Rarer outputs are slips of an annotator, not options.
_MIN_SHARE = 0.02


@dataclass(frozen=True)
class ExampleSet:
    """One task of demonstrations: what is shown, what is asked, and the outputs to choose from."""

    name: str
    shown: list[tuple[str, str]] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    options: list[str] = field(default_factory=list)


def documents(specification: str, data: Path, split: str) -> list[Source]:
    """Raises FileNotFoundError, and ValueError for a kind that is not known or a file of another form."""
    kind, _, path = specification.partition(":")
    if not path:
        return shared_sets.documents(data, specification, split)
    if kind not in PUBLIC:
        raise ValueError(f"{specification}: {kind} is not one of {', '.join(PUBLIC)}")
    folder = Path(path).expanduser()
    return public_sets.narrativeqa(folder, split) if kind == "narrativeqa" else PUBLIC[kind](folder)


def example_sets(specification: str, data: Path, split: str, seed: int) -> list[ExampleSet]:
    """`metaicl:FOLDER`, or sources of the data folder with `+` between them. Raises FileNotFoundError, ValueError."""
    kind, _, path = specification.partition(":")
    if path:
        if kind != "metaicl":
            raise ValueError(f"{specification}: demonstrations come from metaicl:FOLDER or a source of the data folder")
        return [ExampleSet(name, *parts) for name, parts in public_sets.metaicl(Path(path).expanduser()).items()]
    sets = []
    for source in specification.split("+"):
        for name, pairs in shared_sets.examples(data, source, split).items():
            sets.append(_halved(name, pairs, random.Random(f"{seed}-{name}")))
    return [one for one in sets if 2 <= len(one.options) <= _MAX_OPTIONS and not _letters(one.options)]


def _letters(options: list[str]) -> bool:
    """ "(A)" and the like stand for something else in every example: demonstrations cannot teach them."""
    return any(option.startswith("(") for option in options)


def _halved(name: str, pairs: list[tuple[str, str]], rng: random.Random) -> ExampleSet:
    """Half of the examples to show, half to ask, those with a rare output left out; no options for too few examples."""
    outputs = [output for _, output in pairs]
    options = sorted({o for o in outputs if outputs.count(o) >= _MIN_SHARE * len(outputs)})
    usable = [pair for pair in pairs if pair[1] in options] if len(options) <= _MAX_OPTIONS else []
    rng.shuffle(usable)
    half = len(usable) // 2
    return ExampleSet(name, usable[:half], usable[half:], options if len(usable) >= _MIN_EXAMPLES else [])
