"""What moves the weights: AdamW, or Muon for the matrices. Rates are relative to each weight's own size."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import AdamW, Muon, Optimizer

from generator.config import ConfigError
from generator.model import GeneratorNetwork
from generator.training.settings import OptimizerSettings


def optimizers(network: GeneratorNetwork, gains: nn.Parameter, settings: OptimizerSettings) -> list[Optimizer]:
    """Of every weight and of the targets' gains. Each group's "peak" is what its "lr" is a share of. Raises `ConfigError`."""
    if settings.kind not in ("adamw", "muon"):
        raise ConfigError(f"kind: {settings.kind!r} is not one of adamw, muon")
    matrices: list[dict[str, Any]] = []
    others: list[dict[str, Any]] = [{"params": [gains], "peak": settings.gain_rate}]
    for parameter in network.parameters():
        groups = matrices if settings.kind == "muon" and parameter.dim() == 2 else others
        groups.append({"params": [parameter], "peak": settings.rate * _size(parameter)})
    made: list[Optimizer] = [AdamW(others, lr=settings.rate, weight_decay=0.0, betas=settings.betas)]
    if matrices:  # its steps made as large as AdamW's are on noisy gradients, so that one rate serves both
        made.append(Muon(matrices, lr=settings.rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"))
    return made


def _size(parameter: nn.Parameter) -> float:
    """Root mean square of a weight's entries; of one that starts at zero, what a usual initialization would give."""
    size = parameter.detach().square().mean().sqrt().item()
    return size or parameter.shape[-1] ** -0.5
