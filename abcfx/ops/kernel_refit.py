"""abc_k::refit_weights, search_scales, dequantize_weights and fit_lines: fits (csrc/include/abcfx/refit.h).

    refit_weights       (w f32[O, taps, c] of any strides, α f32[M, O], alternations, coded: α_p = 2^p α_0)
                        → bases int8 ±1 [M, O, taps, c], α f32[M, O], error f64[O], power f64[O]
    search_scales       (rows f32[O, k], ascending; sums of the smallest f64[O, k + 1]; rms f64[O]; M; coded)
                        → f64[O, M], where a fit from scratch ends (abcfx/quant/alternating.py)
    fit_lines           (samples f32[n], ascending; sums of the smallest f64[n + 1]; (Δ, o) f64[s, 2]; highest code;
                        whether o stays 0; alternations)
                        → lines f64[s, 2], errors f64[s] less Σx² (abcfx/quant/fit_coded.py)
    dequantize_weights  (bases int8 ±1 [M, O, taps, c], α f32[M, O])
                        → Ŵ = Σ_p α_p B_p f32[O, c, taps], as a convolution stores it, and f32[O, taps] = Σ_channels Ŵ
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import alternating, fit_coded
from abcfx.quant.cells import SortedRows
from abcfx.quant.refit import refit
from abcfx.quant.weights import dequantize_bases

ABC_K.define(
    "refit_weights(Tensor weight, Tensor alpha, int alternations, bool coded=False)"
    " -> (Tensor, Tensor, Tensor, Tensor)"
)
ABC_K.define("search_scales(Tensor sorted, Tensor prefix, Tensor rms, int bases, bool coded=False) -> Tensor")
ABC_K.define(
    "fit_lines(Tensor sorted, Tensor prefix, Tensor lines, int top, bool anchored, int alternations)"
    " -> (Tensor, Tensor)"
)
ABC_K.define("dequantize_weights(Tensor bases, Tensor alpha) -> (Tensor, Tensor)")


def refit_weights(
    weight: Tensor, alpha: Tensor, alternations: int, coded: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bases, *rest = refit(weight.flatten(1), alpha, alternations, coded)
    return bases.view(-1, *weight.shape), *rest


def search_scales(sorted: Tensor, prefix: Tensor, rms: Tensor, bases: int, coded: bool = False) -> Tensor:
    return alternating.search_scales(SortedRows(sorted, prefix), rms, bases, coded)


def fit_lines(
    sorted: Tensor, prefix: Tensor, lines: Tensor, top: int, anchored: bool, alternations: int
) -> tuple[Tensor, Tensor]:
    return fit_coded.alternate(SortedRows(sorted, prefix), lines, top, anchored, alternations)


def dequantize_weights(bases: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    weight = dequantize_bases(bases.flatten(2), alpha).view(bases.shape[1:])
    tap_sums = (bases.sum(-1) * alpha.double().unsqueeze(-1)).sum(0)
    return weight.transpose(1, 2).contiguous(), tap_sums.to(alpha.dtype)


library.register_reference(ABC_K, "refit_weights", refit_weights)
library.register_reference(ABC_K, "search_scales", search_scales)
library.register_reference(ABC_K, "fit_lines", fit_lines)
library.register_reference(ABC_K, "dequantize_weights", dequantize_weights)


@torch.library.register_fake("abc_k::refit_weights", lib=ABC_K)
def _(
    weight: Tensor, alpha: Tensor, alternations: int, coded: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    bases = weight.new_empty((alpha.shape[0], *weight.shape), dtype=torch.int8)
    error, power = (weight.new_empty(weight.shape[:1], dtype=torch.float64) for _ in range(2))
    return bases, torch.empty_like(alpha), error, power


@torch.library.register_fake("abc_k::search_scales", lib=ABC_K)
def _(sorted: Tensor, prefix: Tensor, rms: Tensor, bases: int, coded: bool = False) -> Tensor:
    return rms.new_empty((rms.shape[0], bases))


@torch.library.register_fake("abc_k::fit_lines", lib=ABC_K)
def _(
    sorted: Tensor, prefix: Tensor, lines: Tensor, top: int, anchored: bool, alternations: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(lines), lines.new_empty(lines.shape[0])


@torch.library.register_fake("abc_k::dequantize_weights", lib=ABC_K)
def _(bases: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    _, outputs, taps, channels = bases.shape
    return alpha.new_empty((outputs, channels, taps)), alpha.new_empty((outputs, taps))
