"""Many rows at once through the base model, each under its own adapter: losses of targets, greedy continuations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from generator.encode import LoraWeights, attached

# Tokens of a pass, padding included, and rows: on a CPU more gains nothing, on a GPU it does.
_BATCH_TOKENS = {"cpu": 2048, "cuda": 32_768}
_BATCH_ROWS = 32
# Positions whose logits are held at once: 0.1 GB for a vocabulary of 50,000.
_LOGIT_ROWS = 512


@dataclass
class Row:
    """One sequence under one adapter: `prompt` (at least one token) is read, `target` is scored."""

    prompt: list[int]
    target: list[int] = field(default_factory=list)
    adapter: LoraWeights | None = None

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.target)


class Rows:
    """A base model that takes rows in any number and order. Rows of one length and one adapter share a pass."""

    def __init__(
        self, base: Any, scaling: float, batch_tokens: int | None = None, on_batch: Callable[[int], None] | None = None
    ) -> None:
        """scaling: of every row's adapter; on_batch is told after each pass how many rows it held."""
        self.base, self.scaling = base, scaling
        self.batch_tokens = batch_tokens or _BATCH_TOKENS.get(base.device.type, _BATCH_TOKENS["cpu"])
        self.on_batch = on_batch or (lambda _rows: None)

    @torch.inference_mode()
    def losses(self, rows: Sequence[Row]) -> list[Tensor]:
        """Next-token loss (nats) of every target token of each row, in the rows' order."""
        results: list[Tensor] = [torch.empty(0)] * len(rows)
        for batch in self._batches(rows, 0):
            for index, losses in zip(batch, self._score([rows[i] for i in batch]), strict=True):
                results[index] = losses
            self.on_batch(len(batch))
        return results

    @torch.inference_mode()
    def continuations(self, rows: Sequence[Row], max_tokens: int, end: int) -> list[list[int]]:
        """The likeliest next token again and again, until `end` (left out) or `max_tokens`; in the rows' order."""
        results: list[list[int]] = [[]] * len(rows)
        for batch in self._batches(rows, max_tokens):
            for index, ids in zip(batch, self._continue([rows[i] for i in batch], max_tokens, end), strict=True):
                results[index] = ids
            self.on_batch(len(batch))
        return results

    @contextmanager
    def read(self, prefix: list[int], adapter: LoraWeights | None) -> Iterator[Reading]:
        """What many rows begin with, read once."""
        with torch.inference_mode(), attached(self.base, adapter or {}, self.scaling):
            ids = torch.tensor([prefix], device=self.base.device)
            cache = self.base.get_decoder()(input_ids=ids, use_cache=True).past_key_values
            yield Reading(self.base, prefix, cache)

    def _batches(self, rows: Sequence[Row], room: int) -> Iterator[list[int]]:
        """Indices of rows that go together: adapters of one shape, lengths alike. room: tokens to come in each row."""
        order = sorted(range(len(rows)), key=lambda i: (_shape(rows[i].adapter), rows[i].length))
        batch: list[int] = []
        for index in order:
            shape, tokens = _shape(rows[index].adapter), rows[index].length + room
            full = (len(batch) + 1) * tokens > self.batch_tokens or len(batch) == _BATCH_ROWS
            if batch and (full or shape != _shape(rows[batch[0]].adapter)):
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _score(self, rows: list[Row]) -> list[Tensor]:
        # Padded on the right: what a causal model computes for a token does not depend on what comes after it.
        ids = torch.zeros(len(rows), max(row.length for row in rows), dtype=torch.long)
        for index, row in enumerate(rows):
            ids[index, : row.length] = torch.tensor(row.prompt + row.target)
        with attached(self.base, stacked([row.adapter for row in rows]), self.scaling):
            states = self.base.get_decoder()(input_ids=ids.to(self.base.device), use_cache=False).last_hidden_state
        predicting = [states[i, len(r.prompt) - 1 : r.length - 1] for i, r in enumerate(rows)]
        targets = torch.tensor([token for row in rows for token in row.target], device=states.device)
        head = self.base.get_output_embeddings()
        pieces = zip(torch.split(torch.cat(predicting), _LOGIT_ROWS), torch.split(targets, _LOGIT_ROWS), strict=True)
        losses = torch.cat([F.cross_entropy(head(s).float(), t, reduction="none") for s, t in pieces])
        return list(torch.split(losses.cpu(), [len(row.target) for row in rows]))

    def _continue(self, rows: list[Row], max_tokens: int, end: int) -> list[list[int]]:
        longest = max(len(row.prompt) for row in rows)
        ids = torch.full((len(rows), longest), end, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for index, row in enumerate(rows):
            ids[index, longest - len(row.prompt) :] = torch.tensor(row.prompt)
            mask[index, longest - len(row.prompt) :] = 1
        with attached(self.base, stacked([row.adapter for row in rows]), self.scaling):
            out = self.base.generate(
                ids.to(self.base.device),
                attention_mask=mask.to(self.base.device),
                max_new_tokens=max_tokens,
                do_sample=False,
                eos_token_id=end,
                pad_token_id=end,
            )
        texts: list[list[int]] = out[:, longest:].tolist()
        return [text[: text.index(end)] if end in text else text for text in texts]


class Reading:
    """Goes on from a prefix, as often as wanted: its cache is cut back each time."""

    def __init__(self, base: Any, prefix: list[int], cache: Any) -> None:
        self.base, self.prefix, self.cache = base, prefix, cache

    @contextmanager
    def further(self, tokens: list[int]) -> Iterator[Reading]:
        """After some more tokens; this reading goes on where it was when that one ends."""
        if tokens:
            ids = torch.tensor([tokens], device=self.base.device)
            self.base.get_decoder()(input_ids=ids, past_key_values=self.cache, use_cache=True)
        yield Reading(self.base, self.prefix + tokens, self.cache)
        self._cut()

    def _cut(self) -> None:
        surplus = self.cache.get_seq_length() - len(self.prefix)
        if surplus:
            self.cache.crop(-surplus)  # negative: so many tokens at the end

    def losses(self, prompt: list[int], target: list[int]) -> Tensor:
        """Of each target token after prefix and `prompt` (at least one token)."""
        ids = torch.tensor([prompt + target], device=self.base.device)
        states = self.base.get_decoder()(input_ids=ids, past_key_values=self.cache, use_cache=True).last_hidden_state
        self._cut()
        logits = self.base.get_output_embeddings()(states[0, len(prompt) - 1 : -1]).float()
        return F.cross_entropy(logits, ids[0, len(prompt) :], reduction="none").cpu()

    def continuation(self, prompt: list[int], max_tokens: int, end: int) -> list[int]:
        """The likeliest tokens after prefix and `prompt`, as `Rows.continuations` has them."""
        ids = torch.tensor([self.prefix + prompt], device=self.base.device)
        out = self.base.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=self.cache,
            max_new_tokens=max_tokens,
            do_sample=False,
            eos_token_id=end,
            pad_token_id=end,
        )
        self._cut()
        text: list[int] = out[0, ids.shape[1] :].tolist()
        return text[: text.index(end)] if end in text else text


def _shape(adapter: LoraWeights | None) -> str:
    """Equal for adapters that can share a batch: same modules, same ranks."""
    return "" if adapter is None else repr([(name, tuple(a.shape)) for name, (a, _) in sorted(adapter.items())])


def stacked(adapters: Sequence[LoraWeights | None]) -> LoraWeights:
    """One pair for each row of a batch (N x k x d_in, N x d_out x k); a single pair where all rows have the same adapter."""
    first = adapters[0]
    if first is None:
        return {}
    if all(adapter is first for adapter in adapters):
        return first
    rows = [adapter for adapter in adapters if adapter is not None]
    return {name: (torch.stack([r[name][0] for r in rows]), torch.stack([r[name][1] for r in rows])) for name in first}


def common_start(prompts: Sequence[list[int]]) -> list[int]:
    """What all begin with; at least one token of each is left over."""
    alike = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*(prompt[:-1] for prompt in prompts), strict=False))
    return [tokens[0] for tokens in alike]
