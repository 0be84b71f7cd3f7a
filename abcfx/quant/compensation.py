"""Rounding with compensation: code one column of the weights, move those not yet coded to make up for it, go on.

With H = S + λI, the moments of the inputs, damped, and H⁻¹ = UᵀU, U upper triangular, rounding w_j to q_j costs least
if the columns after it then become

    w_i ← w_i - (w_j - q_j) / U_jj · U_ji        i > j

q_j is the nearest level Σ_p ±α_p of the output channel. Columns of much input power go first, while there are many
others to make up for them. Sources: Hassibi & Stork 1993 (optimal brain surgeon); Frantar et al. 2022, "GPTQ".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from abcfx.quant.alternating import edges_of, levels_of

BLOCK = 128  # columns between two products with all of the moments


def nearest_levels(scales: Tensor, rows: Sequence[int]) -> Callable[[Tensor], Tensor]:
    """A function of f32[*rows], one value for each output channel, to the nearest Σ_p ±α_p; scales f64[rows, M]."""
    levels = levels_of(scales)[0]
    edges, levels = edges_of(levels), levels.float()

    def nearest(values: Tensor) -> Tensor:
        cells = torch.searchsorted(edges, values.reshape(-1, 1).contiguous(), right=True)
        return levels.gather(-1, cells).view(*rows)

    return nearest


def compensated(w: Tensor, moments: Tensor, scales: Tensor) -> Tensor:
    """ŵ f32[g, q, k] of levels Σ_p ±α_p, chosen with compensation.

    w        f32[g, q, k]
    moments  f32[g, k, k]     H, positive definite
    scales   f64[g·q, M]      α of each output channel
    """
    order = torch.argsort(moments.diagonal(dim1=-2, dim2=-1), stable=True, descending=True)  # [g, k]
    rows, columns = order.unsqueeze(-1).expand_as(moments), order.unsqueeze(1).expand_as(moments)
    upper = _inverse_factor(moments.gather(1, rows).gather(2, columns))
    places = order.unsqueeze(1).expand_as(w)
    left, fitted, nearest = w.gather(2, places), torch.empty_like(w), nearest_levels(scales, w.shape[:2])
    for first in range(0, w.shape[-1], BLOCK):
        block = slice(first, first + BLOCK)
        here, own = left[:, :, block], upper[:, block, block]
        errors = torch.empty_like(here)
        for j in range(here.shape[-1]):
            level = nearest(here[:, :, j])
            errors[:, :, j] = (here[:, :, j] - level) / own[:, j, j, None]
            here[:, :, j:] -= errors[:, :, j, None] * own[:, None, j, j:]
            fitted[:, :, first + j] = level
        left[:, :, first + BLOCK :] -= errors @ upper[:, block, first + BLOCK :]
    return torch.empty_like(w).scatter_(2, places, fitted)


def _inverse_factor(moments: Tensor) -> Tensor:
    """U of H⁻¹ = UᵀU, f32[g, k, k]; factored in f64, where the damping leaves room for rounding."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(moments.double()))
    return torch.linalg.cholesky(inverse, upper=True).float()
