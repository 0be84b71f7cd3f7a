"""Weights fitted to what a layer's outputs feel: small Σ rᵀ S r over output channels, r = w - ŵ, S its input moments.

The squared error of a weight says little about the error of an output: inputs differ in power and are correlated, so
some directions of r do nothing and others decide. With S = E[x̂ x̂ᵀ], E(rᵀx̂)² = rᵀ S r is what is to be small. Two ways
lower it from the plain fit, and with ŵ = Σ_p α_p B_p neither leaves the form that the kernels run:

"moments"     α by least squares in this metric,  (Bᵀ S B) α = Bᵀ S w,  and codes by coordinate descent: weight j takes
              the level nearest to  ŵ_j + (S r)_j / S_jj,  which is the best one while all others stay.
"compensate"  the same, but from codes chosen one column after the other, each time moving all weights not yet coded so
              that they make up for the rounding best (compensation.py).

Everything is batched over groups: w f32[g, q, k] (q output channels in each group), S f32[g, k, k].
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.quant.alternating import nearest_bases, solve_step
from abcfx.quant.cells import require_finite
from abcfx.quant.compensation import BLOCK, compensated, nearest_levels
from abcfx.quant.weights import dequantize_bases, fit_bases

METHODS = ("error", "moments", "compensate")
DAMPING = 0.01  # added to S, in units of its mean diagonal: what so few samples say is not to be trusted further
ROUNDS = 3  # of scales and codes in turn; most of the gain is in the first two
# Eigenvalues of Bᵀ S B below this share of the largest are rounding of f32 sums, where bases repeat each other.
RANK_TOLERANCE = 1e-6


def output_error(residual: Tensor, moments: Tensor) -> Tensor:
    """rᵀ S r of each output channel, whose sum is Tr(R S Rᵀ): f[g, q, k], f[g, k, k] → f64[g, q]."""
    residual, moments = residual.double(), moments.double()
    return (residual @ moments * residual).sum(-1)


def damped(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """S + λI with λ = damping · the mean diagonal of the group (1 where that is zero: there any code is as good)."""
    mean = moments.diagonal(dim1=-2, dim2=-1).mean(-1)
    ridge = torch.where(mean > 0, damping * mean, 1.0)
    return moments + torch.diag_embed(ridge.unsqueeze(-1).expand(moments.shape[:-1]))


def fit_to_moments(
    w: Tensor,
    moments: Tensor,
    weight_bases: int,
    method: str = "compensate",
    per_channel: bool = True,
    plain: tuple[Tensor, Tensor] | None = None,
    basis: str = "alternating",
) -> tuple[Tensor, Tensor]:
    """Bases and scales with small Tr((w - ŵ) S (w - ŵ)ᵀ), at most that of the plain fit in every output channel.

    w            f32[g, q, k]       groups, output channels of a group, depth
    moments      f32[g, k, k]       S, symmetric and positive semidefinite
    method       "error" (the plain fit, S plays no part), "moments" or "compensate"
    per_channel  else one set of scales for all rows; then the bound holds for their sum
    plain        the plain fit of w, of this `basis`, if it is there already
    basis        "alternating", or "coded": only scales α_p = 2^p α_0
    →            int8[M, g·q, k]    bases, entries ±1
                 f32[M, g·q]        scales

    Raises ValueError for an unknown method, for shapes that do not belong together and for values that are not finite.
    Sources: Nagel et al. 2020, "Up or Down?" (the metric); Frantar et al. 2022, "GPTQ" (the compensation).
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if w.dim() != 3 or moments.shape != (w.shape[0], w.shape[2], w.shape[2]):
        raise ValueError(
            f"weights [groups, channels, depth] need moments [groups, depth, depth], "
            f"got {list(w.shape)} and {list(moments.shape)}"
        )
    require_finite(moments, "input moments")
    w, moments = w.detach().float(), moments.float()
    best = plain or fit_bases(w.flatten(0, 1), weight_bases, basis, per_channel)
    if method == "error" or not w.numel():
        return best
    metric, scales = damped(moments), best[1].double().T.contiguous()
    start = compensated(w, metric, scales) if method == "compensate" else dequantize_bases(*best).view_as(w)
    found = _descend(w, metric, start, scales, per_channel, basis == "coded")
    return _better(w, moments, best, found, per_channel)


def solve_scales(
    w: Tensor, moments: Tensor, bases: Tensor, per_channel: bool = True, coded: bool = False
) -> Tensor:
    """The α of least norm with least rᵀ S r for fixed bases, (Bᵀ S B) α = Bᵀ S w: ±1 [M, g·q, k] → f64[g·q, M]."""
    planes = bases.view(len(bases), *w.shape).float()
    seen = planes @ moments  # B S, [M, g, q, k]
    gram = torch.einsum("mgqk,ngqk->gqmn", seen, planes).double()
    moment = torch.einsum("mgqk,gqk->gqm", seen, w).double()
    if not per_channel:
        gram, moment = gram.sum((0, 1), keepdim=True), moment.sum((0, 1), keepdim=True)
    moment = moment.unsqueeze(-1)
    if coded:
        scales = solve_step(gram, moment)
    else:
        scales = (torch.linalg.pinv(gram, rtol=RANK_TOLERANCE, hermitian=True) @ moment).squeeze(-1)
    return scales.expand(*w.shape[:2], -1).flatten(0, 1).contiguous()


def _descend(
    w: Tensor, moments: Tensor, fitted: Tensor, scales: Tensor, per_channel: bool, coded: bool
) -> tuple[Tensor, Tensor]:
    """Scales and codes in turn from ŵ with its scales f64[g·q, M]; no step raises Σ rᵀ S r."""
    for _ in range(ROUNDS):
        bases = nearest_bases(fitted.flatten(0, 1), scales)
        scales = solve_scales(w, moments, bases, per_channel, coded)
        before = dequantize_bases(bases, scales.float().T).view_as(w)
        fitted = _sweep(w, moments, before, scales)
        if torch.equal(fitted, before):
            break
    bases = nearest_bases(fitted.flatten(0, 1), scales)
    return bases, solve_scales(w, moments, bases, per_channel, coded).float().T.contiguous()


def _sweep(w: Tensor, moments: Tensor, fitted: Tensor, scales: Tensor) -> Tensor:
    """One pass of coordinate descent over the columns: each weight takes the level that lowers rᵀ S r most."""
    nearest, fitted, diagonal = nearest_levels(scales, w.shape[:2]), fitted.clone(), moments.diagonal(dim1=-2, dim2=-1)
    for first in range(0, w.shape[-1], BLOCK):
        block = slice(first, first + BLOCK)
        slope = (w - fitted) @ moments[:, :, block]  # (S r)_j of the columns in the block
        own = moments[:, block, block]
        for j in range(slope.shape[-1]):
            at = first + j
            old = fitted[:, :, at].clone()
            fitted[:, :, at] = nearest(old + slope[:, :, j] / diagonal[:, at, None])
            slope[:, :, j:] -= (fitted[:, :, at] - old).unsqueeze(-1) * own[:, j, None, j:]
    return fitted


def _better(
    w: Tensor, moments: Tensor, one: tuple[Tensor, Tensor], two: tuple[Tensor, Tensor], per_channel: bool
) -> tuple[Tensor, Tensor]:
    """Of two fits the one with less Tr(R S Rᵀ), for each output channel where these have scales of their own."""
    errors = [output_error(w - dequantize_bases(*fit).view_as(w), moments).flatten() for fit in (one, two)]
    if not per_channel:
        return two if errors[1].sum() < errors[0].sum() else one
    wins = errors[1] < errors[0]
    return torch.where(wins[:, None], two[0], one[0]), torch.where(wins, two[1], one[1])
