"""The baseline that trains: a LoRA fitted to the document by next-token loss, for a given time and until it converges."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from generator.encode import LoraWeights, attached, cut

RANK = 16
_RATE = 2e-3
_CHUNK = 1024
# Converged: the loss of a pass over the document fell by less than 1 % in five passes, or hardly any is left (nats per token).
_PATIENCE, _GAIN, _LEARNED = 5, 0.01, 0.1
MAX_PASSES = 60


@dataclass
class Tuned:
    """A LoRA of every linear layer, to be attached with `scaling` as the generator's adapters are."""

    lora: LoraWeights
    seconds: float
    passes: int
    tokens: int  # read and learned from, over all passes


def tune(base: Any, ids: list[int], scaling: float, seconds: float) -> tuple[Tuned, Tuned]:
    """The LoRA after the first pass that ends past `seconds`, and the converged one. ids: of the document."""
    weights = _fresh(base)
    optimizer = torch.optim.AdamW([tensor for pair in weights.values() for tensor in pair], lr=_RATE, weight_decay=0.0)
    chunks = [chunk for chunk in cut(ids, _CHUNK) if len(chunk) > 1]
    began, losses = time.perf_counter(), list[float]()
    timed: Tuned | None = None
    while len(losses) < MAX_PASSES:
        losses.append(sum(_step(base, weights, optimizer, chunk) for chunk in chunks))
        spent = time.perf_counter() - began
        if timed is None and spent >= seconds:
            timed = _taken(weights, scaling, spent, len(losses), len(ids))
        if timed and _converged(losses, len(ids)):
            break
    final = _taken(weights, scaling, time.perf_counter() - began, len(losses), len(ids))
    return timed or final, final


def _converged(losses: list[float], tokens: int) -> bool:
    stuck = len(losses) > _PATIENCE and losses[-1] > (1 - _GAIN) * losses[-1 - _PATIENCE]
    return stuck or losses[-1] < _LEARNED * tokens


def numbers(base: Any) -> int:
    return sum(a.numel() + b.numel() for a, b in _fresh(base).values())


def _fresh(base: Any) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A (random) and B (zero) for every linear layer of the decoder."""
    torch.manual_seed(0)
    weights = {}
    for name, module in base.named_modules():
        if isinstance(module, torch.nn.Linear) and module is not base.get_output_embeddings():
            a = torch.randn(RANK, module.in_features, device=base.device) * module.in_features**-0.5
            b = torch.zeros(module.out_features, RANK, device=base.device)
            weights[name] = (a.requires_grad_(), b.requires_grad_())
    return weights


def _step(base: Any, weights: LoraWeights, optimizer: torch.optim.Optimizer, chunk: list[int]) -> float:
    """One step of AdamW; the chunk's summed loss before it."""
    ids = torch.tensor([chunk], device=base.device)
    with torch.enable_grad(), attached(base, weights, 1.0):
        states = base.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state[0, :-1]
        loss = F.cross_entropy(base.get_output_embeddings()(states).float(), ids[0, 1:])
        loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad()
    return loss.item() * (len(chunk) - 1)


def _taken(weights: LoraWeights, scaling: float, seconds: float, passes: int, tokens: int) -> Tuned:
    """A copy as it is now; the scale is divided out of B, because it is put in where the LoRA is attached."""
    lora = {name: (a.detach().clone(), b.detach().clone() / scaling) for name, (a, b) in weights.items()}
    return Tuned(lora, seconds, passes, passes * tokens)
