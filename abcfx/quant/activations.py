"""Activations as scaled sums of binary bases: x ≈ Σ_q β_q A_q + c, entries of A ±1, levels shared by a whole tensor.

coded         scale f32[1] = Δ > 0, shift f32[1] = o: a uniform quantizer with 2^N levels whose code bits are the planes
                  k = clamp(round_half_even((x - o) · (1/Δ)), 0, 2^N - 1)        x̂ = Δ·k + o
                  A_q = +1 iff bit q of k is set        β_q = Δ·2^q / 2        c = o + Δ·(2^N - 1)/2
              since Δ·k = Σ_q Δ·2^q·(A_q + 1)/2. Source: LSQ (Esser 2020); with a shift LSQ+ (Bhalgat 2020).
thermometer   scale f32[N] = β, shift f32[N] = v: N thresholds, N + 1 levels
                  A_q = +1 iff x >= 0.5 - v_q, that is sign(clip(x + v_q, 0, 1) - 0.5)     x̂ = Σ_q β_q A_q     c = 0
              Source: ABC-Net (Lin, Zhao, Pan 2017), eq. 7 to 9.

The arithmetic is f32 in exactly the order written (the reciprocal first, no fused multiply-add), so that the packing
kernels give the same planes bit for bit. NaN gives code 0, and -1 in every thermometer plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from abcfx.quant.cells import SortedRows, require_finite
from abcfx.quant.fit_coded import fit_coded
from abcfx.quant.fit_thermometer import fit_thermometer

Fit = Callable[[SortedRows, int], tuple[Tensor, Tensor]]
FITS: dict[str, Fit] = {"coded": fit_coded, "thermometer": fit_thermometer}


def codes(x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int) -> Tensor:
    """k of "coded" levels as integral f32 of x's shape."""
    scale, shift = in_f32(scale), in_f32(shift)
    steps = (_as(x, torch.float32) - shift[0]) * scale[0].reciprocal()
    k = steps.round().clamp(0, 2**activation_bases - 1)
    return k.masked_fill(k != k, 0.0)  # NaN only; inductor vectorizes this and not isnan or nan_to_num


def in_f32(levels: Tensor) -> Tensor:
    """Levels of a half-precision model in f32, as the kernels read them: a rounded 1/Δ would move the thresholds."""
    return levels.to(torch.float32) if levels.dtype.itemsize < 4 else levels


def planes(x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> Tensor:
    """Binary bases of activations: [...] → ±1 f32[activation_bases, ...]."""
    require_levels(levels)
    if levels == "coded":
        k = codes(x, scale, shift, activation_bases).to(torch.int64)
        return torch.stack([(k >> q & 1) * 2 - 1 for q in range(activation_bases)]).to(torch.float32)
    return torch.stack([_thermometer_plane(x, shift[q]) for q in range(activation_bases)])


def coefficients(scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> tuple[Tensor, Tensor]:
    """(β f32[activation_bases], c f32[]) of x̂ = Σ_q β_q A_q + c."""
    require_levels(levels)
    if levels == "coded":
        powers = 2.0 ** torch.arange(activation_bases, dtype=torch.float32, device=scale.device)
        return scale * (powers / 2), shift[0] + scale[0] * ((2**activation_bases - 1) / 2)
    return scale, torch.zeros((), dtype=torch.float32, device=scale.device)


def quantize(x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> Tensor:
    """x̂, the value on the nearest side of each threshold, in the shape and dtype of x."""
    require_levels(levels)
    scale, shift = in_f32(scale), in_f32(shift)
    if levels == "coded":
        return _as(codes(x, scale, shift, activation_bases) * scale[0] + shift[0], x.dtype)
    total = scale[0] * _thermometer_plane(x, shift[0])
    for q in range(1, activation_bases):
        total = total + scale[q] * _thermometer_plane(x, shift[q])
    return total.to(x.dtype)


def dequantize(signs: Tensor, scale: Tensor, shift: Tensor, levels: str) -> Tensor:
    """x̂ of planes, ±1 [activation_bases, ...] → f32[...]: `dequantize(planes(x))` is `quantize(x)` bit for bit."""
    require_levels(levels)
    if levels == "coded":
        powers = 2.0 ** torch.arange(len(signs), dtype=torch.float32, device=signs.device)
        k = torch.tensordot(powers, (signs > 0).to(torch.float32), 1)  # exact: an integer below 256
        return k * scale[0] + shift[0]
    total = scale[0] * signs[0].to(torch.float32)
    for q in range(1, len(signs)):
        total = total + scale[q] * signs[q]
    return total


def fit(samples: Tensor, activation_bases: int, levels: str, fits: Mapping[str, Fit] = FITS) -> tuple[Tensor, Tensor]:
    """Scale and shift that make ‖x - x̂‖² over the samples small; the same samples always give the same answer.

    samples  any shape and float dtype; non-negative samples get o = 0 with "coded" levels, so that zero stays exact
    fits     what fits sorted rows, by kind of levels
    →        (scale, shift) f32, [1] each for "coded", [activation_bases] each for "thermometer"

    All-zero samples give levels that contain 0. Raises ValueError for samples that are not finite or none at all.
    """
    require_levels(levels)
    if not 1 <= activation_bases <= 8:
        raise ValueError(f"activation bases must be 1 to 8, got {activation_bases}")
    if not samples.numel():
        raise ValueError("no activations to fit the levels to")
    row = samples.detach().to(torch.float32).reshape(-1)
    require_finite(row, "activations")
    unit = float(row.abs().max()) or 1.0  # keeps squares in range; f64 below, which only the CPU has everywhere
    scale, place = (unit * found for found in fits[levels](SortedRows.of(row.cpu() / unit), activation_bases))
    shift = place if levels == "coded" else 0.5 - place
    return scale.to(row.device, torch.float32), shift.to(row.device, torch.float32)


def require_levels(levels: str) -> None:
    if levels not in FITS:
        raise ValueError(f"levels must be one of {', '.join(FITS)}, got {levels!r}")


def _as(x: Tensor, dtype: torch.dtype) -> Tensor:
    """x.to(dtype), which below autograd must not return x itself."""
    return x if x.dtype == dtype else x.to(dtype)


def _thermometer_plane(x: Tensor, shift: Tensor) -> Tensor:
    return (x.to(torch.float32) >= 0.5 - shift).to(torch.float32) * 2 - 1
