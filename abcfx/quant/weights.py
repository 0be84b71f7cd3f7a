"""Weights as scaled sums of binary bases: w ≈ Σ_p α_p B_p, entries of B ±1, one α per output channel or per layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from abcfx.quant.alternating import fit_alternating, fit_coded, solve_scales
from abcfx.quant.cells import require_finite

Fit = Callable[[Tensor, int], tuple[Tensor, Tensor]]

CHUNK = 1 << 22  # weights fitted at once: bounds the scratch memory to some 200 MB whatever the layer


def fit_bases(
    w: Tensor,
    weight_bases: int,
    basis: str = "alternating",
    per_channel: bool = True,
    fits: Mapping[str, Fit] | None = None,
) -> tuple[Tensor, Tensor]:
    """Binary bases and their scales: w ≈ Σ_p scales[p] · bases[p], small in squared error.

    w       [o, k]           any float dtype; computed in f32, scales solved in f64
    →       int8[p, o, k]    bases, entries ±1
            f32[p, o]        scales, equal along o if not `per_channel`

    "alternating"  least-squares scales and nearest of the 2^p codes in turn (alternating.py)
    "coded"        the same with α_p = 2^p α_0: the bases are the bits of one integer, as those of coded levels
    "greedy"       B_p = sign(residual), all scales solved again after each (Guo 2017, algorithm 2)
    "abc"          B_p = sign(w - mean + u_p·std), u evenly spaced on [-1, 1] (0 if alone), scales by least squares:
                   the paper's masks, fixed by two moments (Lin, Zhao, Pan 2017, eq. 2 to 4)

    `fits` are other implementations of them: f32[o, k], count → bases, scales.
    Each row is divided by its largest magnitude first, so that no square overflows. Zero rows get scales 0.
    One more basis never gives a larger error with "alternating" and "greedy".
    Raises ValueError for values that are not finite, an unknown basis or a count outside 1 to 8.
    """
    if w.dim() != 2:
        raise ValueError(f"weights must be [channels, depth], got shape {tuple(w.shape)}")
    if not 1 <= weight_bases <= 8:
        raise ValueError(f"weight bases must be 1 to 8, got {weight_bases}")
    fits = FITS if fits is None else fits
    if basis not in fits:
        raise ValueError(f"basis must be one of {', '.join(fits)}, got {basis!r}")
    channels, depth = w.shape
    w = w.detach().to(torch.float32)
    bases = torch.ones(weight_bases, channels, depth, dtype=torch.int8, device=w.device)
    scales = torch.zeros(weight_bases, channels, dtype=torch.float32, device=w.device)
    if not w.numel():
        return bases, scales
    require_finite(w, "weights")
    if not per_channel:
        bases_row, scales_row = _fit_rows(w.reshape(1, -1), weight_bases, fits[basis])
        return bases_row.view_as(bases), scales_row.repeat(1, channels)
    step = max(1, CHUNK // depth)
    for start in range(0, channels, step):
        rows = slice(start, start + step)
        bases[:, rows], scales[:, rows] = _fit_rows(w[rows], weight_bases, fits[basis])
    return bases, scales


def dequantize_bases(bases: Tensor, scales: Tensor) -> Tensor:
    """ŵ = Σ_p scales[p] · bases[p]: (±1 [p, o, k], f32[p, o]) → f32[o, k]."""
    total = scales[0].unsqueeze(-1) * bases[0]
    for plane, scale in zip(bases[1:], scales[1:], strict=True):
        total += scale.unsqueeze(-1) * plane
    return total


def relative_error(exact: Tensor, approximation: Tensor) -> Tensor:
    """‖x - x̂‖² / ‖x‖², an f64 scalar; 0 where both are zero."""
    exact = exact.detach().double()
    error, power = (exact - approximation.detach()).square().sum(), exact.square().sum()
    return torch.where(error == 0, error, error / power)


def flatten_weight(weight: Tensor, transposed: bool = False, groups: int = 1) -> Tensor:
    """Weight of a layer → [o, taps, channels_per_group]: one row per output channel, tap-major, channel fastest.

    weight  linear [o, k]; convolution [o, c/g, *kernel]; transposed convolution [c, o/g, *kernel]
    Taps stay in the order of the kernel also for a transposed convolution.
    """
    taps = math.prod(weight.shape[2:])
    if not transposed:
        return weight.reshape(*weight.shape[:2], taps).transpose(1, 2)
    inputs, outputs = weight.shape[:2]
    grouped = weight.reshape(groups, inputs // groups, outputs, taps)
    return grouped.permute(0, 2, 3, 1).reshape(groups * outputs, taps, inputs // groups)


def unflatten_weight(
    flat: Tensor, shape: torch.Size | tuple[int, ...], transposed: bool = False, groups: int = 1
) -> Tensor:
    """Inverse of `flatten_weight`: [o, taps, channels_per_group] → `shape`, the layout of the layer's weight."""
    taps = math.prod(shape[2:])
    if not transposed:
        return flat.reshape(shape[0], taps, shape[1]).transpose(1, 2).reshape(shape)
    inputs, outputs = shape[:2]
    return flat.reshape(groups, outputs, taps, inputs // groups).permute(0, 3, 1, 2).reshape(shape)


def fit_scales(w: Tensor, bases: Tensor) -> Tensor:
    """Least-squares scales of fixed bases, one problem per output channel.

    minimize over α  ‖w - Σ_p α_p B_p‖²          ⇒   (BᵀB) α = Bᵀw

    w      f32[o, k]         weights, flattened per output channel
    bases  [p, o, k]         entries ±1
    →      f32[p, o]

    Repeated bases make BᵀB singular; the minimum-norm solution is returned.
    Source: Lin, Zhao, Pan 2017, eq. 3.
    """
    planes = bases.to(torch.float32).transpose(0, 1)  # [o, p, k]
    gram = (planes @ planes.mT).double() / w.shape[-1]
    moment = (planes @ w.unsqueeze(-1)).double() / w.shape[-1]
    return solve_scales(gram, moment).T.to(torch.float32)


def _fit_rows(w: Tensor, weight_bases: int, fit: Fit) -> tuple[Tensor, Tensor]:
    largest = w.abs().amax(-1, keepdim=True)
    largest = torch.where(largest == 0, 1, largest)
    bases, scales = fit(w / largest, weight_bases)
    return bases, scales * largest.squeeze(-1)


def _signs(values: Tensor) -> Tensor:
    return torch.where(values < 0, -1, 1).to(torch.int8)


def _fit_greedy(w: Tensor, weight_bases: int) -> tuple[Tensor, Tensor]:
    bases = _signs(w).unsqueeze(0)
    scales = fit_scales(w, bases)
    for _ in range(weight_bases - 1):
        bases = torch.cat([bases, _signs(w - dequantize_bases(bases, scales)).unsqueeze(0)])
        scales = fit_scales(w, bases)
    return bases, scales


def _fit_abc(w: Tensor, weight_bases: int) -> tuple[Tensor, Tensor]:
    shifts = torch.linspace(-1, 1, weight_bases).tolist() if weight_bases > 1 else [0.0]
    centered = w - w.mean(-1, keepdim=True)
    deviation = centered.square().mean(-1, keepdim=True).sqrt()
    bases = torch.stack([_signs(centered + shift * deviation) for shift in shifts])
    return bases, fit_scales(w, bases)


FITS: dict[str, Fit] = {
    "alternating": fit_alternating,
    "coded": fit_coded,
    "greedy": _fit_greedy,
    "abc": _fit_abc,
}
