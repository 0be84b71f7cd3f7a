"""Alternating minimization of ‖w - Σ_p α_p B_p‖² over scales and bases, all output channels at once.

For fixed α the best bases pick, for each weight, the nearest of the 2^p levels Σ_p ±α_p; for fixed bases the best α
is a least-squares problem. Both steps lower the error, so their alternation converges. In the first step the weights
of one code form an interval, so that only interval counts and sums are needed (cells.py), never each weight.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.quant.cells import SortedRows

# Step of the uniform quantizer with 2^p levels that has least squared error on N(0,1): Max 1960, table II, continued.
GAUSSIAN_STEP = (1.5958, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308)
ITERATIONS = 20  # nearly all channels stop earlier; what is left moves the error by less than a thousandth
RANK_TOLERANCE = 1e-10  # see weights.py


def fit_alternating(w: Tensor, weight_bases: int) -> tuple[Tensor, Tensor]:
    """Bases and scales by alternating minimization: f32[o, k] → (int8[p, o, k], f32[p, o]), scales descending and ≥ 0.

    For each count p = 1 … weight_bases two starts compete per channel: uniform planes (α_p ∝ 2^p), and the solution
    with one basis less, extended by a basis on its residual. The second makes the error fall with every basis.
    Source: Xu et al. 2018, "Alternating multi-bit quantization", with the search tree replaced by sorted intervals.
    """
    rows = SortedRows.of(w)
    power = w.double().square().sum(-1)
    rms = (power / w.shape[-1]).sqrt()
    scales = rms.new_zeros(w.shape[0], 0)
    for count in range(1, weight_bases + 1):
        uniform = GAUSSIAN_STEP[count - 1] / 2 * rms[:, None] * 2.0 ** torch.arange(count, device=w.device)
        extended = torch.cat([scales, _residual_scale(rows, scales)], -1)
        (one, gain_one), (two, gain_two) = _alternate(rows, uniform), _alternate(rows, extended)
        scales = torch.where((gain_one >= gain_two)[:, None], one, two)
    scales = scales.abs().sort(-1, descending=True).values
    return nearest_bases(w, scales), scales.T.to(torch.float32)


def nearest_bases(w: Tensor, scales: Tensor) -> Tensor:
    """Codes of the nearest levels as bases: f32[o, k], f64[o, p] → int8[p, o, k]. A tie takes the upper level."""
    levels, order = _levels(scales)
    cells = torch.searchsorted(_edges(levels), w.contiguous(), right=True)
    codes = order.to(torch.uint8).gather(-1, cells)
    bases = torch.empty(scales.shape[-1], *w.shape, dtype=torch.int8, device=w.device)
    for plane, basis in enumerate(bases):
        basis.copy_(codes >> plane & 1)
    return bases.mul_(2).sub_(1)


def _levels(scales: Tensor) -> tuple[Tensor, Tensor]:
    """All Σ_p ±α_p, ascending, and their codes: f64[o, p] → (f64[o, 2^p], i64[o, 2^p]); bit p set means +α_p."""
    levels, order = (scales @ _code_signs(scales).T).sort(-1)
    return levels, order


def _code_signs(scales: Tensor) -> Tensor:
    """±1 f64[2^p, p]: row `code`, column p is +1 iff bit p of the code is set."""
    bases = scales.shape[-1]
    codes = torch.arange(1 << bases, device=scales.device).unsqueeze(-1)
    return (codes >> torch.arange(bases, device=scales.device) & 1).to(scales.dtype) * 2 - 1


def _edges(levels: Tensor) -> Tensor:
    return ((levels[..., 1:] + levels[..., :-1]) / 2).to(torch.float32)


def _alternate(rows: SortedRows, scales: Tensor) -> tuple[Tensor, Tensor]:
    """Alternate from f64[o, p] until no code changes → (scales, the part bᵀα of ‖w‖² that they explain, f64[o])."""
    signs, previous = _code_signs(scales), None
    gain = scales.new_zeros(scales.shape[0])
    for _ in range(ITERATIONS):
        levels, order = _levels(scales)
        bounds = rows.bounds(_edges(levels))
        if previous is not None and torch.equal(bounds, previous):
            break
        previous = bounds
        counts, sums = rows.cells(bounds)
        codes = signs[order]  # [o, 2^p, p]
        gram = codes.mT @ (counts.unsqueeze(-1) * codes)
        moment = codes.mT @ sums.unsqueeze(-1)
        solved = torch.linalg.pinv(gram, rtol=RANK_TOLERANCE, hermitian=True) @ moment
        gain = (moment * solved).sum((-2, -1))
        scales = solved.squeeze(-1)
    return scales, gain


def _residual_scale(rows: SortedRows, scales: Tensor) -> Tensor:
    """mean |w - nearest level|, the scale of one more basis on the residual: f64[o, p] → f64[o, 1]."""
    levels, _ = _levels(scales)
    middle = _edges(levels)
    halves = torch.empty(levels.shape[0], 2 * levels.shape[1] - 1, dtype=torch.float32, device=levels.device)
    halves[:, 0::2], halves[:, 1::2] = levels.to(torch.float32), middle
    counts, sums = rows.cells(rows.bounds(halves))
    residual = sums - counts * levels.repeat_interleave(2, -1)
    return (residual[:, 1::2] - residual[:, 0::2]).sum(-1, keepdim=True) / rows.values.shape[-1]
