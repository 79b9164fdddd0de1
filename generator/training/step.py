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
from generator.training.frozen import Chunk, FrozenModel, Half, batches
from generator.training.objectives import Prompts, Row
from generator.training.polar import polar_factor, polar_with_gradient
from generator.training.settings import TrainingSettings


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
        pairs = [_token_pairs(network, index, context) for index in range(len(config.targets)) for context in contexts]
        q, p = _factors(pairs, config)
        count = len(contexts)
        for index, target in enumerate(config.targets):
            module = network.generators[index]
            here = slice(index * count, (index + 1) * count)
            b = module.B * gains[index].exp()
            self.weights[target.name] = (q[here].mT @ module.A1, b @ p[here].mT)

    def for_rows(self, contexts: list[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """The adapter of each row."""
        index = torch.tensor(contexts)
        return {name: (a[index], b[index]) for name, (a, b) in self.weights.items()}


def _factors(pairs: list[tuple[Tensor, Tensor]], config: GeneratorConfig) -> tuple[Tensor, Tensor]:
    """Q (N x r1 x k) and P (N x k x r2) with S^ = Q P, of N contexts' keys and values."""
    if config.norm != "svd":
        u, v = factorize(torch.stack([keys.mT @ values for keys, values in pairs]), config)
        return u, v.mT
    decomposed = [polar_with_gradient(keys, values, config.rank) for keys, values in pairs]
    return torch.stack([d[0] for d in decomposed]), polar_factor(torch.stack([d[1] for d in decomposed]))


def _token_pairs(network: GeneratorNetwork, index: int, context: list[tuple[Chunk, int]]) -> tuple[Tensor, Tensor]:
    """Keys (T x r1) and values (T x r2) of a context's tokens for one target."""
    layer = network.config.targets[index].layer
    module = network.generators[index]
    keys, values = [], []
    for chunk, count in context:
        mask = torch.ones(1, count, device=chunk.final.device)
        k, v = module.keys_values(chunk.states[layer][None, :count], chunk.embedding[None, :count], mask)
        keys.append(k[0])
        values.append(v[0])
    return torch.cat(keys), torch.cat(values)


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
        means = {name: sum(part.item() for part in parts) / counts[name] for name, parts in losses.items()}
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
        for indices in batches(sorted(range(len(rows)), key=lengths_of.__getitem__), lengths_of):
            batch = [rows[i] for i in indices]
            half = self.frozen.lower([row.prompt + row.target for row in batch])
            lora = adapters.for_rows([row.document for row in batch])
            states = self.frozen.upper(half, lora, self.network.config.scaling)
            scored = [slice(len(row.prompt) - 1, len(row.prompt) + len(row.target) - 1) for row in batch]
            lengths = [len(row.target) for row in batch]
            together = self.frozen.logits(torch.cat([states[i, s] for i, s in enumerate(scored)]))
            logits = torch.split(together, lengths)
            teachers = self._teachers(batch, half, scored)
            for row, row_logits, teacher in zip(batch, logits, teachers, strict=True):
                counts[row.objective] += len(row.target)
                losses[row.objective].append(self._loss(row, row_logits, teacher))

    @torch.no_grad()
    def _teachers(self, batch: list[Row], half: Half, scored: list[slice]) -> list[Tensor | None]:
        """Logits that rows are held to: the frozen model's own for unrelated rows, those with the text before for completion."""
        states: list[Tensor | None] = [row.teacher for row in batch]
        negatives = [i for i, row in enumerate(batch) if row.objective.startswith("unrelated")]
        if negatives:
            still = self.frozen.upper(half, {}, 0.0)
            for i in negatives:
                states[i] = still[i, scored[i]]
        for i, row in enumerate(batch):
            if row.taught is not None:
                states[i] = self.frozen.final([*row.taught, *row.target])[len(row.taught) - 1 : -1]
        return [None if state is None else self.frozen.logits(state) for state in states]

    def _loss(self, row: Row, logits: Tensor, teacher: Tensor | None) -> Tensor:
        ce = objectives.cross_entropy(logits, torch.tensor(row.target, device=logits.device))
        if teacher is None:
            return ce
        if row.objective == "distillation":
            return objectives.top_divergence(logits, teacher, self.settings.objectives.top_k)
        if row.objective == "unrelated_question":
            return objectives.symmetric_divergence(logits, teacher)
        share = self.settings.objectives.completion_share if row.objective == "completion" else 1.0
        return share * objectives.divergence(logits, teacher) + (1 - share) * ce

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
