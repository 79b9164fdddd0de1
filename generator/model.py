"""The network: what a layer's states become (section 3 of arXiv 2411.05877).

For an adapted linear W (d_out x d_in) in decoder layer l, with h_1..h_T the hidden states entering layer l:

    n = RMSNorm(h)      K = n A2^T (T x r1)      V = n A3^T (T x r2)      S = K^T V (r1 x r2)
    W'x = W x + alpha/r2 * B (S^)^T A1 x         S^: S normalized, see `factors.py`
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from generator.config import GeneratorConfig, TargetModule


class ModuleGenerator(nn.Module):
    """The trained part for one adapted linear layer."""

    def __init__(self, config: GeneratorConfig, target: TargetModule) -> None:
        super().__init__()
        d = config.hidden_size
        self.norm = nn.Parameter(torch.ones(d))
        self.A1 = nn.Parameter(torch.randn(config.r1, target.d_in) * target.d_in**-0.5)
        self.A2 = nn.Parameter(torch.randn(config.r1, d) * d**-0.5)
        self.A3 = nn.Parameter(torch.randn(config.r2, d) * d**-0.5)
        self.B = nn.Parameter(torch.zeros(target.d_out, config.r2))  # zero: an untrained adapter changes nothing
        self.norm_eps = config.norm_eps
        self.key_shift = config.key_shift
        self.reads_embedding = config.value_source == "embedding"

    def keys_values(self, hidden: Tensor, embedding: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """K (N x T' x r1, zero where a token does not count) and V (N x T' x r2); T' = T - key_shift.

        hidden, embedding: N x T x d_model (states entering this layer, and layer 0); mask: N x T, 1 where a token is
        to be remembered, 0 for padding and prefixes.
        """
        normed = self._normalize(hidden)
        keys = F.linear(normed, self.A2)
        values = F.linear(self._normalize(embedding) if self.reads_embedding else normed, self.A3)
        if self.key_shift:  # the pair (t-1, t) counts where both tokens do
            keys, values, mask = keys[:, :-1], values[:, 1:], mask[:, :-1] * mask[:, 1:]
        return keys * mask.unsqueeze(-1).to(keys.dtype), values

    def state(self, hidden: Tensor, embedding: Tensor, mask: Tensor) -> Tensor:
        """S = K^T V of each row: N x r1 x r2, float32. Arguments as in `keys_values`."""
        keys, values = self.keys_values(hidden, embedding, mask)
        return torch.matmul(keys.mT.float(), values.float())

    def _normalize(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden.to(self.A2.dtype), (hidden.shape[-1],), self.norm, self.norm_eps)


class GeneratorNetwork(nn.Module):
    """One `ModuleGenerator` for each target, in the configuration's order."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.generators = [ModuleGenerator(config, target) for target in config.targets]
        self.registered = nn.ModuleList(self.generators)  # the same ones, known to torch

    def at_layer(self, layer: int) -> list[tuple[int, ModuleGenerator]]:
        """The targets inside one decoder layer: (index into the configuration's targets, its generator)."""
        pairs = enumerate(zip(self.config.targets, self.generators, strict=True))
        return [(index, generator) for index, (target, generator) in pairs if target.layer == layer]
