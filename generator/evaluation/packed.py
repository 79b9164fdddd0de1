"""Passages inside long documents: what an adapter still knows of each when it was read among unrelated ones."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from generator.encode import ContextTooLong
from generator.evaluation.quality import Cell, Quality, Tally, shown
from generator.generator import Generator
from generator.training.data import Passage

TOKENS = 2048
# Passages of one long document that are asked about: seven unrelated ones around each.
_ASKED = 8
OWN, OTHER = "own, packed", "other, packed"


@dataclass
class Pack:
    """A document of several passages: `members` are indices into the measured passages."""

    ids: list[int]
    members: list[int]


def pack(passages: list[Passage], pool: list[Passage], separator: list[int], seed: int) -> list[Pack]:
    """Every passage in one document of `TOKENS` tokens: eight of them, then others of the pool, in random order.

    Nothing that is asked about in another document fills this one, nor text of an article asked about in this one; the last
    filler is cut.
    """
    rng = random.Random(seed)
    asked = {id(passage) for passage in passages}
    fillers = [passage for passage in pool if id(passage) not in asked]
    packs = []
    for start in range(0, len(passages), _ASKED):
        members = list(range(start, min(start + _ASKED, len(passages))))
        titles = {passages[i].title for i in members}
        parts = [passages[i].ids for i in members]
        room = TOKENS - sum(len(part) + len(separator) for part in parts)
        for filler in rng.sample(fillers, len(fillers)):
            if room <= 0:
                break
            if filler.title not in titles:
                parts.append(filler.ids[:room])
                room -= len(parts[-1]) + len(separator)
        rng.shuffle(parts)
        packs.append(Pack([token for part in parts for token in [*part, *separator]], members))
    return packs


@torch.inference_mode()
def measure(quality: Quality, tally: Tally, generator: Generator, pool: list[Passage], seed: int) -> None:
    """Adds the answers' losses (and F1) under the adapter of the long document, and of another long document."""
    passages = quality.passages
    packs = pack(passages, pool, quality.prompts.tokenize("\n\n"), seed)
    if len(packs) < 2:  # there is no other document
        return
    try:
        before = generator.contextualize(packs[-1].ids).lora()
    except ContextTooLong:  # the checkpoint reads everything in one chunk
        return
    for one in shown(packs, "in long documents", quality.progress):
        own = generator.contextualize(one.ids).lora()
        cells: list[Cell] = []
        for index in one.members:
            cells += [quality.asked(OWN, passages[index], own), quality.asked(OTHER, passages[index], before)]
        quality.scorer.record(tally, cells)
        before = own
