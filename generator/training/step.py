"""One training step: passages -> documents -> adapters -> rows -> loss."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from generator.encode import cut
from generator.model import GeneratorNetwork
from generator.training import objectives
from generator.training.data import Passage
from generator.training.frozen import Context, FrozenModel, Half
from generator.training.objectives import Prompts, Row
from generator.training.polar import polar_factor, polar_with_gradient
from generator.training.settings import TrainingSettings

# Rows of about one length share a pass; this many tokens (padding included) at a time bound the activations.
_PASS_TOKENS = 1536


@dataclass
class Document:
    """Passages that are read as one context."""

    passages: list[Passage]
    ids: list[int]
    rows: list[int]  # its chunks among the step's chunks


def group(passages: list[Passage], sizes: tuple[int, ...], separator: list[int], rng: random.Random) -> list[list[Passage]]:
    """Cut a step's passages into documents of 1 to several passages."""
    groups, start = [], 0
    while start < len(passages):
        size = rng.choice(sizes)
        groups.append(passages[start : start + size])
        start += size
    return groups


class Adapters:
    """LoRA weights of a step's documents with the gradient to the network."""

    def __init__(
        self,
        network: GeneratorNetwork,
        gains: Tensor,
        context: Context,
        masks: list[Tensor],
        documents: list[list[int]],
    ) -> None:
        """gains: log of each target's scale; masks: each document's mask (rows x T) over its rows; documents: those rows."""
        config = network.config
        self.weights: dict[str, tuple[Tensor, Tensor]] = {}
        pairs = [
            _token_pairs(network, index, context, rows, mask)
            for index in range(len(config.targets))
            for rows, mask in zip(documents, masks, strict=True)
        ]
        decomposed = [polar_with_gradient(keys, values, config.rank) for keys, values in pairs]
        q = torch.stack([d[0] for d in decomposed])
        p = polar_factor(torch.stack([d[1] for d in decomposed]))
        count = len(documents)
        for index, target in enumerate(config.targets):
            module = network.modules_by_target[index]
            here = slice(index * count, (index + 1) * count)
            self.weights[target.name] = (q[here].mT @ module.A1, (module.B * gains[index].exp()) @ p[here].mT)  # type: ignore[operator]

    def for_rows(self, documents: list[int]) -> dict[str, tuple[Tensor, Tensor]]:
        """The adapter of each row."""
        index = torch.tensor(documents)
        return {name: (a[index], b[index]) for name, (a, b) in self.weights.items()}


def _token_pairs(
    network: GeneratorNetwork, index: int, context: Context, rows: list[int], mask: Tensor
) -> tuple[Tensor, Tensor]:
    """Keys (T x r1) and values (T x r2) of a document's remembered tokens for one target."""
    layer = network.config.targets[index].layer
    module = network.modules_by_target[index]
    keys, values = module.keys_values(context.states[layer][rows], context.embedding[rows], mask)  # type: ignore[operator]
    kept = mask if not network.config.key_shift else mask[:, :-1] * mask[:, 1:]
    chosen = kept.bool()
    return keys[chosen], values[chosen]


class Step:
    """Builds the loss of one step."""

    def __init__(self, frozen: FrozenModel, network: GeneratorNetwork, prompts: Prompts, settings: TrainingSettings) -> None:
        self.frozen, self.network, self.prompts, self.settings = frozen, network, prompts, settings
        self.separator = prompts.tokenize("\n\n")

    def __call__(self, passages: list[Passage], gains: Tensor, rng: random.Random) -> tuple[Tensor, dict[str, float]]:
        """The weighted loss, and each objective's mean per token."""
        documents, context = self._read(passages, rng)
        rows_of = [document.rows for document in documents]
        whole = Adapters(self.network, gains, context, [context.mask[rows] for rows in rows_of], rows_of)
        rows = self._rows(documents, rng)
        losses, counts = defaultdict(list), defaultdict(int)  # type: ignore[var-annotated]
        self._score(rows, whole, losses, counts)
        if self.settings.objectives.completion:
            self._score_completion(documents, context, gains, losses, counts, rng)
        weights = vars(self.settings.objectives)
        total = sum((weights[name] * torch.stack(parts).sum() / counts[name] for name, parts in losses.items()), torch.zeros(()))
        means = {name: sum(part.item() for part in parts) / counts[name] for name, parts in losses.items()}
        return total, means

    def _read(self, passages: list[Passage], rng: random.Random) -> tuple[list[Document], Context]:
        documents, chunks = [], []
        config = self.network.config
        for members in group(passages, self.settings.data.grouping, self.separator, rng):
            ids = list(members[0].ids)
            for passage in members[1:]:
                ids += self.separator + passage.ids
            pieces = cut(ids, config.window)
            documents.append(Document(members, ids, list(range(len(chunks), len(chunks) + len(pieces)))))
            chunks += pieces
        ids_tensor, mask = pad([[*config.prefix_ids, *chunk] for chunk in chunks], len(config.prefix_ids))
        return documents, self.frozen.read(ids_tensor.to(self.frozen.device), mask.to(self.frozen.device))

    def _rows(self, documents: list[Document], rng: random.Random) -> list[Row]:
        weights, data, prompts = self.settings.objectives, self.settings.data, self.prompts
        rows: list[Row] = []
        for index, document in enumerate(documents):
            others = [p for i, d in enumerate(documents) if i != index for p in d.passages]
            count = data.questions * len(document.passages)
            if weights.answers:
                rows += objectives.answers(prompts, index, document.passages, rng, count, data.answer_tokens)
            if weights.reconstruction:
                rows += objectives.reconstruction(prompts, index, document.ids, rng, weights.span)
            if others and (weights.unrelated_text or weights.unrelated_question):
                rows += objectives.unrelated(prompts, index, rng.choice(others), rng, weights.span)
        return rows

    def _score(self, rows: list[Row], adapters: Adapters, losses: dict[str, list[Tensor]], counts: dict[str, int]) -> None:
        for batch in batches(rows):
            half = self.frozen.lower(pad([row.prompt + row.target for row in batch])[0].to(self.frozen.device))
            lora = adapters.for_rows([row.document for row in batch])
            states = self.frozen.upper(half, lora, self.network.config.scaling)
            scored = [slice(len(row.prompt) - 1, len(row.prompt) + len(row.target) - 1) for row in batch]
            lengths = [len(row.target) for row in batch]
            logits = self.frozen.logits(torch.cat([states[i, s] for i, s in enumerate(scored)])).split(lengths)
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
        return [None if state is None else self.frozen.logits(state) for state in states]

    def _loss(self, row: Row, logits: Tensor, teacher: Tensor | None) -> Tensor:
        ce = objectives.cross_entropy(logits, torch.tensor(row.target, device=logits.device))
        if teacher is None:
            return ce
        share = self.settings.objectives.completion_share if row.objective == "completion" else 1.0
        return share * objectives.divergence(logits, teacher) + (1 - share) * ce

    def _score_completion(
        self,
        documents: list[Document],
        context: Context,
        gains: Tensor,
        losses: dict[str, list[Tensor]],
        counts: dict[str, int],
        rng: random.Random,
    ) -> None:
        """Adapters of first halves: of every document's first chunk, its tokens before a random split."""
        config, span = self.network.config, self.settings.objectives.span
        prefix = len(config.prefix_ids)
        masks, firsts, rows = [], [], []
        for document in documents:
            first = document.rows[0]
            length = int(context.mask[first].sum())
            split = rng.randrange(length // 3, max(length // 3 + 1, length - 8))
            mask = context.mask[first : first + 1].clone()
            mask[:, prefix + split :] = 0
            ids = context.ids[first, prefix : prefix + length].tolist()
            rows += objectives.completion(self.prompts, len(firsts), ids, split, context.final[first, prefix:], span)
            masks.append(mask)
            firsts.append([first])
        self._score(rows, Adapters(self.network, gains, context, masks, firsts), losses, counts)


def pad(rows: list[list[int]], unmasked: int = 0) -> tuple[Tensor, Tensor]:
    """Ids padded on the right with 0 (N x T) and the mask of what is no padding, without the first `unmasked` tokens."""
    length = max(map(len, rows))
    ids, mask = torch.zeros(len(rows), length, dtype=torch.long), torch.zeros(len(rows), length)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, unmasked : len(row)] = 1
    return ids, mask


def batches(rows: list[Row], tokens: int = _PASS_TOKENS) -> list[list[Row]]:
    """Rows by length, as many in one pass as fit."""
    ordered = sorted(rows, key=lambda row: len(row.prompt) + len(row.target))
    result: list[list[Row]] = []
    for row in ordered:
        length = len(row.prompt) + len(row.target)
        if result and (len(result[-1]) + 1) * length <= tokens:
            result[-1].append(row)
        else:
            result.append([row])
    return result


