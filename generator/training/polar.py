"""The polar factor in training: the very U and V of inference, with a gradient that stays finite.

Through an SVD the gradient has terms 1/(s_i^2 - s_j^2); the polar factor's own has 1/(s_i + s_j) only. The k-dimensional
space U_k is taken as given (no gradient through which directions are kept).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generator.factors import polar_factors

# The gradient of a direction grows with 1/s, and singular values spread over four orders of magnitude. Directions below the
# typical one are damped: their s counts as at least this share of the median, or the emptiest would make up the whole gradient.
_DAMPING_SHARE = 1.0


class _PolarFactor(torch.autograd.Function):
    """U and P = V^T of S = U diag(s) V^T, cut to `rank`, empty directions zero. P carries the gradient of M = U^T S."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, rank: int) -> tuple[Tensor, Tensor]:
        u, v = polar_factors(states, rank)
        ctx.save_for_backward(states, u, v)
        ctx.mark_non_differentiable(u)
        return u, v.mT.contiguous()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        states, u, v = ctx.saved_tensors
        s = torch.linalg.vector_norm(u.mT @ states, dim=-1)  # N x k
        kept = u.any(-2)
        typical = torch.where(kept, s, torch.nan).nanmedian(-1, keepdim=True).values
        damped = s + _DAMPING_SHARE * typical
        both = kept.unsqueeze(-1) & kept.unsqueeze(-2)
        g = grads[1]  # N x k x r2
        gv = g @ v  # N x k x k
        rotation = torch.where(both, (gv - gv.mT) / (damped.unsqueeze(-1) + damped.unsqueeze(-2)), 0)
        outside = torch.where(kept, 1 / damped, 0).unsqueeze(-1) * (g - gv @ v.mT)
        return u @ (rotation @ v.mT + outside), None


def polar_with_gradient(states: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """U (N x r1 x k) and P (N x k x r2) with U P the polar factor, cut to `rank`, of each S; P carries the gradient.

    states: N x r1 x r2.
    """
    u, p = _PolarFactor.apply(states, rank)  # type: ignore[no-untyped-call]
    return u, p
