"""One training step: passages -> documents -> adapters -> rows -> loss."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from generator.config import GeneratorConfig
from generator.encode import LoraWeights, cut
from generator.factors import factorize
from generator.model import GeneratorNetwork
from generator.training import objectives
from generator.training.data import Passage
from generator.training.frozen import Chunk, FrozenModel, Half
from generator.training.objectives import Prompts, Row
from generator.training.polar import polar_with_gradient
from generator.training.settings import TrainingSettings

# Objectives that hold an adapter to the frozen model, on what its document does not speak of.
_NEGATIVES = ("unrelated_text", "unrelated_question")


@dataclass
class Document:
    """Passages that are read as one context."""

    passages: list[Passage]
    ids: list[int]
    chunks: list[Chunk]


def group(passages: list[Passage], sizes: tuple[int, ...], rng: random.Random) -> list[list[Passage]]:
    """Cut a step's passages into documents of 1 to several passages."""
    groups, start = [], 0
    while start < len(passages):
        size = rng.choice(sizes)
        groups.append(passages[start : start + size])
        start += size
    return groups


class Adapters:
    """LoRA weights of several contexts, with the gradient to the network."""

    def __init__(self, network: GeneratorNetwork, gains: Tensor, contexts: list[list[tuple[Chunk, int]]]) -> None:
        """gains: log of each target's scale; contexts: of each its chunks, and how many of their tokens count."""
        config = network.config
        self.weights: dict[str, tuple[Tensor, Tensor]] = {}
        states = torch.cat([_states(network, index, contexts) for index in range(len(config.targets))])
        u, p = _factors(states, config)
        count = len(contexts)
        for index, target in enumerate(config.targets):
            module = network.generators[index]
            here = slice(index * count, (index + 1) * count)
            b = module.B * gains[index].exp()
            self.weights[target.name] = (u[here].mT @ module.A1, b @ p[here].mT)

    def for_rows(self, contexts: list[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """The adapter of each row."""
        device = next(iter(self.weights.values()))[0].device
        index = torch.tensor(contexts, device=device)
        return {name: (a[index], b[index]) for name, (a, b) in self.weights.items()}


def _factors(states: Tensor, config: GeneratorConfig) -> tuple[Tensor, Tensor]:
    """U (N x r1 x k) and P (N x k x r2) with S^ = U P, of N states."""
    if config.norm == "svd":
        return polar_with_gradient(states, config.rank)
    u, v = factorize(states, config)
    return u, v.mT


def _states(network: GeneratorNetwork, index: int, contexts: list[list[tuple[Chunk, int]]]) -> Tensor:
    """S of each context for one target: contexts x r1 x r2. Keys and values of all tokens in one go, sums by chunk."""
    layer = network.config.targets[index].layer
    parts = [part for context in contexts for part in context]
    hidden = torch.cat([chunk.states[layer][:count] for chunk, count in parts])
    embedding = torch.cat([chunk.embedding[:count] for chunk, count in parts])
    mask = torch.ones(1, len(hidden), device=hidden.device)
    keys, values = (x[0] for x in network.generators[index].keys_values(hidden[None], embedding[None], mask))
    sums, start = [], 0
    for context in contexts:
        pieces = []
        for _, count in context:  # a pair across two chunks is none
            here = slice(start, start + max(0, count - network.config.key_shift))
            pieces.append(keys[here].mT @ values[here])
            start += count
        sums.append(pieces[0] if len(pieces) == 1 else torch.stack(pieces).sum(0))
    return torch.stack(sums)


def _places(rows: list[Row], objective: str, width: int) -> list[int]:
    """Where, in the flattened states of rows padded to `width`, the targets of one objective are predicted."""
    places: list[int] = []
    for number, row in enumerate(rows):
        if row.objective == objective:
            first = number * width + len(row.prompt) - 1
            places += range(first, first + len(row.target))
    return places


class Step:
    """Builds the loss of one step."""

    def __init__(
        self, frozen: FrozenModel, network: GeneratorNetwork, prompts: Prompts, settings: TrainingSettings
    ) -> None:
        self.frozen, self.network, self.prompts, self.settings = frozen, network, prompts, settings
        self.separator = prompts.tokenize("\n\n")

    def __call__(self, passages: list[Passage], gains: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        """The weighted loss, and each objective's mean per token."""
        documents = self._read(passages, gains, rng)
        contexts = [[(chunk, len(chunk.ids)) for chunk in document.chunks] for document in documents]
        whole = Adapters(self.network, gains, contexts)
        rows = self._rows(documents, rng)
        losses, counts = defaultdict(list), defaultdict(int)  # type: ignore[var-annotated]
        self._score(rows, whole, losses, counts)
        if self.settings.objectives.completion:
            self._score_completion(documents, gains, losses, counts, rng)
        weights = vars(self.settings.objectives)
        total = sum(
            (weights[name] * torch.stack(parts).sum() / counts[name] for name, parts in losses.items()), torch.zeros(())
        )
        means = {name: torch.stack(parts).sum().item() / counts[name] for name, parts in losses.items()}
        return total, means

    def _read(self, passages: list[Passage], gains: Tensor, rng: random.Random) -> list[Document]:
        documents: list[Document] = []
        pieces: list[list[list[int]]] = []
        for members in group(passages, self.settings.data.grouping, rng):
            ids = list(members[0].ids)
            for passage in members[1:]:
                ids += self.separator + passage.ids
            documents.append(Document(members, ids, []))
            window = len(ids) if self.network.config.strategy == "concat" else self.network.config.window
            pieces.append(cut(ids, window))
        if self.network.config.strategy == "sequential":
            for document, parts in zip(documents, pieces, strict=True):
                self._read_in_sequence(document, parts, gains)
            return documents
        chunks = iter(self.frozen.read([chunk for parts in pieces for chunk in parts]))
        for document, parts in zip(documents, pieces, strict=True):
            document.chunks = [next(chunks) for _ in parts]
        return documents

    @torch.no_grad()
    def _read_in_sequence(self, document: Document, parts: list[list[int]], gains: Tensor) -> None:
        """Each chunk with the adapter of those before it; no gradient goes through that adapter."""
        for part in parts:
            lora: LoraWeights = {}
            if document.chunks:
                contexts = [[(chunk, len(chunk.ids)) for chunk in document.chunks]]
                lora = Adapters(self.network, gains, contexts).for_rows([0])
            document.chunks += self.frozen.read([part], lora, self.network.config.scaling)

    def _rows(self, documents: list[Document], rng: random.Random) -> list[Row]:
        weights, data, prompts = self.settings.objectives, self.settings.data, self.prompts
        rows: list[Row] = []
        for index, document in enumerate(documents):
            others = [p for i, d in enumerate(documents) if i != index for p in d.passages]
            count = data.questions * len(document.passages)
            if weights.answers:
                rows += objectives.answers(prompts, index, document.passages, rng, count, data.answer_tokens)
            if weights.distillation:
                rows += objectives.distillation(
                    prompts, index, document.passages, rng, len(document.passages), data.answer_tokens
                )
            if weights.reconstruction:
                rows += objectives.reconstruction(prompts, index, document.ids, rng, weights.span)
            if others and (weights.unrelated_text or weights.unrelated_question):
                rows += objectives.unrelated(prompts, index, others, rng, weights.span, data.unrelated_questions)
        return rows

    def _score(
        self, rows: list[Row], adapters: Adapters, losses: dict[str, list[Tensor]], counts: dict[str, int]
    ) -> None:
        lengths_of = [len(row.prompt) + len(row.target) for row in rows]
        for indices in self.frozen.batches(lengths_of):
            batch = [rows[i] for i in indices]
            half = self.frozen.lower([row.prompt + row.target for row in batch])
            lora = adapters.for_rows([row.document for row in batch])
            states = self.frozen.upper(half, lora, self.network.config.scaling).flatten(0, 1)
            still = self._still(half) if any(row.objective in _NEGATIVES for row in batch) else None
            for objective in sorted({row.objective for row in batch}):
                places = _places(batch, objective, half.hidden.shape[1])
                index = torch.tensor(places, device=states.device)
                unmoved = still[index] if still is not None and objective in _NEGATIVES else None
                members = [row for row in batch if row.objective == objective]
                counts[objective] += len(places)
                losses[objective].append(self._loss(members, self.frozen.logits(states[index]), unmoved))

    @torch.no_grad()
    def _still(self, half: Half) -> Tensor:
        """The frozen model's own states, which negatives are held to."""
        return self.frozen.upper(half, {}, 0.0).flatten(0, 1)

    @torch.no_grad()
    def _teacher(self, rows: list[Row], unmoved: Tensor | None) -> Tensor:
        """Logits that rows of one objective are held to: the frozen model's own for negatives, those with the text before
        for completion, those with the passage in the prompt for distillation."""
        return self.frozen.logits(torch.cat([self._taught(row) for row in rows]) if unmoved is None else unmoved)

    def _taught(self, row: Row) -> Tensor:
        if row.teacher is not None:
            return row.teacher
        assert row.taught is not None  # distillation's rows say how they are taught
        return self.frozen.final([*row.taught, *row.target])[len(row.taught) - 1 : -1]

    def _loss(self, rows: list[Row], logits: Tensor, unmoved: Tensor | None) -> Tensor:
        """Sum over the targets' tokens of rows of one objective. unmoved: the frozen model's states there, of negatives."""
        objective, settings = rows[0].objective, self.settings.objectives
        target = torch.tensor([token for row in rows for token in row.target], device=logits.device)
        if objective in ("answers", "reconstruction"):
            return objectives.cross_entropy(logits, target)
        teacher = self._teacher(rows, unmoved)
        if objective == "distillation":
            return objectives.top_divergence(logits, teacher, settings.top_k)
        if objective == "unrelated_question":
            return objectives.symmetric_divergence(logits, teacher)
        if objective == "unrelated_text":
            return objectives.divergence(logits, teacher)
        share = settings.completion_share
        return share * objectives.divergence(logits, teacher) + (1 - share) * objectives.cross_entropy(logits, target)

    def _score_completion(
        self,
        documents: list[Document],
        gains: Tensor,
        losses: dict[str, list[Tensor]],
        counts: dict[str, int],
        rng: random.Random,
    ) -> None:
        """Adapters of first halves: of every document's first chunk, its tokens before a random split."""
        contexts: list[list[tuple[Chunk, int]]] = []
        rows: list[Row] = []
        for document in documents:
            chunk = document.chunks[0]
            length = len(chunk.ids)
            split = rng.randrange(length // 3, max(length // 3 + 1, length - 8))
            span = self.settings.objectives.span
            rows += objectives.completion(self.prompts, len(contexts), chunk.ids, split, chunk.final, span)
            contexts.append([(chunk, split)])
        self._score(rows, Adapters(self.network, gains, contexts), losses, counts)
