"""The polar factor in training: the same U_k V_k^T as at inference, with a gradient that stays finite.

Through an SVD the gradient has terms 1/(s_i^2 - s_j^2); the polar factor's own has 1/(s_i + s_j) only. The k-dimensional
space U_k is taken as given (no gradient through which directions are kept).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from generator.factors import NULL_SHARE

# The gradient of a direction grows with 1/s, and singular values spread over four orders of magnitude. Directions below the
# typical one are damped: their s counts as at least this share of the median, or the emptiest would make up the whole gradient.
_DAMPING_SHARE = 1.0


class _PolarFactor(torch.autograd.Function):
    """P = U V^T of M = U diag(s) V^T (N x k x r2), empty directions left out as at inference.

    Decomposed in float64: the Gram matrix squares the spread of the singular values, and float32 would lose all but the
    twenty largest of a typical document.
    """

    @staticmethod
    def forward(ctx: Any, m: Tensor) -> Tensor:
        wide = m.double()
        eigenvalues, u = torch.linalg.eigh(wide @ wide.mT)
        s = eigenvalues.clamp_min(0).sqrt()  # N x k
        kept = s > NULL_SHARE * s.amax(-1, keepdim=True)
        inverse = torch.where(kept, 1 / s.clamp_min(torch.finfo(s.dtype).tiny), 0)
        vt = inverse.unsqueeze(-1) * (u.mT @ wide)  # N x k x r2
        ctx.save_for_backward(u.to(m.dtype), s.to(m.dtype), vt.to(m.dtype), kept)
        polar: Tensor = (u @ vt).to(m.dtype)
        return polar

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        u, s, vt, kept = ctx.saved_tensors
        g = u.mT @ grads[0]  # N x k x r2
        typical = torch.where(kept, s, torch.nan).nanmedian(-1, keepdim=True).values
        damping = _DAMPING_SHARE * typical
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
            basis, r = torch.linalg.qr(keys.mT.double())  # r1 x T, T x T
            core = r @ values.double()  # S = basis core
        else:
            basis, core = None, s.double()
        vectors = torch.linalg.eigh(core @ core.mT)[1][:, -rank:]
        q = vectors if basis is None else basis @ vectors
        if q.shape[1] < rank:  # fewer tokens than rank: empty directions
            q = torch.nn.functional.pad(q, (0, rank - q.shape[1]))
        q = q.to(s.dtype)
    return q, q.mT @ s


def polar_factor(m: Tensor) -> Tensor:
    """P of M = Q^T S, batched. m: N x k x r2."""
    result: Tensor = _PolarFactor.apply(m)  # type: ignore[no-untyped-call]
    return result
