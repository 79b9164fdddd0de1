"""The polar factor in training: the same U_k V_k^T as at inference, with a gradient that stays finite.

Through an SVD the gradient has terms 1/(s_i^2 - s_j^2); the polar factor's own has 1/(s_i + s_j) only. The k-dimensional
space U_k is taken as given (no gradient through which directions are kept).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generator.factors import NULL_SHARE

# The gradient of a direction grows with 1/s. Directions far below the typical one are damped: their s counts as at least
# this share of the root mean square, or a few near-empty directions would make up the whole gradient.
_DAMPING_SHARE = 0.1


class _PolarFactor(torch.autograd.Function):
    """P = V_k^T's rows mixed by U: for M (N x k x r2) = U diag(s) V^T, P = U V^T."""

    @staticmethod
    def forward(ctx: Any, m: Tensor) -> Tensor:
        eigenvalues, u = torch.linalg.eigh(m @ m.mT)
        s = eigenvalues.clamp_min(0).sqrt()  # N x k
        kept = s > NULL_SHARE**0.5 * s.amax(-1, keepdim=True)  # float32's Gram matrix is noise below that
        inverse = torch.where(kept, 1 / s.clamp_min(torch.finfo(s.dtype).tiny), 0)
        vt = inverse.unsqueeze(-1) * (u.mT @ m)  # N x k x r2
        ctx.save_for_backward(u, s, vt, kept)
        polar: Tensor = u @ vt
        return polar

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        u, s, vt, kept = ctx.saved_tensors
        g = u.mT @ grads[0]  # N x k x r2
        damping = _DAMPING_SHARE * s.square().mean(-1, keepdim=True).sqrt()
        damped = s + damping
        both = kept.unsqueeze(-1) & kept.unsqueeze(-2)
        gv = g @ vt.mT  # N x k x k
        rotation = torch.where(both, (gv - gv.mT) / (damped.unsqueeze(-1) + damped.unsqueeze(-2)), 0)
        outside = torch.where(kept, 1 / damped, 0).unsqueeze(-1) * (g - gv @ vt)
        gradient: Tensor = u @ (rotation @ vt + outside)
        return gradient


def polar_with_gradient(keys: Tensor, values: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Q (r1 x k) and P (k x r2) with Q P the polar factor, cut to `rank`, of S = keys^T values; P carries the gradient.

    keys: T x r1, values: T x r2, of the tokens that count. Short contexts (T < r1) are decomposed at size T.
    """
    s = keys.mT @ values
    with torch.no_grad():
        if keys.shape[0] < keys.shape[1]:
            basis, r = torch.linalg.qr(keys.mT)  # r1 x T, T x T
            core = r @ values  # S = basis core
        else:
            basis, core = None, s
        vectors = torch.linalg.eigh(core @ core.mT)[1][:, -rank:]
        q = vectors if basis is None else basis @ vectors
        if q.shape[1] < rank:  # fewer tokens than rank: empty directions
            q = torch.nn.functional.pad(q, (0, rank - q.shape[1]))
    return q, q.mT @ s


def polar_factor(m: Tensor) -> Tensor:
    """P of M = Q^T S, batched. m: N x k x r2."""
    result: Tensor = _PolarFactor.apply(m)  # type: ignore[no-untyped-call]
    return result
