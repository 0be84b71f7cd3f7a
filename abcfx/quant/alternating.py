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
# Starts in units of that step: heavy tails want wider ones, up to many times wider where there are many levels.
WIDER = (0.8, 1.0, 1.25, 1.6, 2.1, 3.0, 4.5, 8.0)
# At most so many alternations by count of bases. Few bases stop by themselves. Many would go on for hundreds, each as
# dear as all those of two bases, for 1 or 2 % less error on normal weights and 4 % on Laplacian ones.
ITERATIONS = (0, 60, 60, 30, 15, 8, 6, 6)
# Eigenvalues of BᵀB / k are 0 or at least about 1/k; f64 rounding leaves 1e-15 where 0 is meant.
RANK_TOLERANCE = 1e-10


def fit_alternating(w: Tensor, weight_bases: int) -> tuple[Tensor, Tensor]:
    """Bases and scales by alternating minimization: f32[o, k] → (int8[p, o, k], f32[p, o]).

    For each count p = 2 … weight_bases two starts compete per channel: uniform planes (α_p ∝ 2^p), and the solution
    with one basis less, extended by a basis on its residual. The second makes the error fall with every basis.
    Source: Xu et al. 2018, "Alternating multi-bit quantization", with the search tree replaced by sorted intervals.
    abcfx/ops/weight_fit.py runs the same search compiled.
    """
    rows = SortedRows.of(w)
    return _from_scales(w, rows, descending(search_scales(rows, root_mean_square(w), weight_bases)))


def fit_coded(w: Tensor, weight_bases: int) -> tuple[Tensor, Tensor]:
    """Bases and scales α_p = 2^p α_0: f32[o, k] → (int8[p, o, k], f32[p, o]), smallest first.

    Σ_p α_p B_p is then α_0 times an odd integer of at most 2^weight_bases - 1, the uniform quantizer of Max 1960, and a
    kernel may multiply by that integer in the place of the bases (docs/lookup.md). On normal weights it errs as little
    as scales that are free: .1188, .0374, .0115, .0035 of ‖w‖² for 2 to 5 bases.
    """
    rows = SortedRows.of(w)
    return _from_scales(w, rows, search_scales(rows, root_mean_square(w), weight_bases, coded=True), coded=True)


def _from_scales(w: Tensor, rows: SortedRows, scales: Tensor, coded: bool = False) -> tuple[Tensor, Tensor]:
    levels, order = levels_of(scales)
    fitted, _ = _solve(rows, order, rows.bounds(edges_of(levels)), coded)
    return nearest_bases(w, scales), fitted.T.to(torch.float32)


def root_mean_square(w: Tensor) -> Tensor:
    return (w.double().square().sum(-1) / w.shape[-1]).sqrt()


def descending(scales: Tensor) -> Tensor:
    """The same levels, f64[o, p]: largest scale first, none negative."""
    return scales.abs().sort(-1, descending=True).values


def search_scales(rows: SortedRows, rms: Tensor, weight_bases: int, coded: bool = False) -> Tensor:
    """Scales whose nearest codes have them as least-squares scales, or almost: f64[o, p]. `rms` f64[o] is that of w.

    coded  among α_p = 2^p α_0 only, from uniform planes
    """
    if coded:
        return _alternate(rows, _uniform_start(rows, rms, weight_bases), coded)[0]
    negative = rows.bounds(rows.values.new_zeros(len(rms), 1))
    _, sums = rows.cells(negative)
    scales = (sums[:, 1:] - sums[:, :1]) / rows.values.shape[-1]  # mean |w|: the best scale of one basis
    for count in range(2, weight_bases + 1):
        uniform = _uniform_start(rows, rms, count)
        extended = torch.cat([scales, _residual_scale(rows, scales)], -1)
        (one, gain_one), (two, gain_two) = _alternate(rows, uniform), _alternate(rows, extended)
        scales = torch.where((gain_one >= gain_two)[:, None], one, two)
    return scales


def _uniform_start(rows: SortedRows, rms: Tensor, count: int) -> Tensor:
    """Scales Δ·2^p/2 of uniform planes, f64[o, p], with the best Δ of a few for each row."""
    planes = 2.0 ** torch.arange(count, dtype=rms.dtype, device=rms.device) / 2
    best, least = rms.new_zeros(len(rms), count), torch.full_like(rms, torch.inf)
    for factor in WIDER:
        scales = factor * GAUSSIAN_STEP[count - 1] * rms[:, None] * planes
        levels, _ = levels_of(scales)
        counts, sums = rows.cells(rows.bounds(edges_of(levels)))
        error = (levels * (counts * levels - 2 * sums)).sum(-1)
        best = torch.where((error < least)[:, None], scales, best)
        least = torch.minimum(error, least)
    return best


def nearest_bases(w: Tensor, scales: Tensor) -> Tensor:
    """Codes of the nearest levels as bases: f32[o, k], f64[o, p] → int8[p, o, k]. A tie takes the upper level."""
    levels, order = levels_of(scales)
    cells = torch.searchsorted(edges_of(levels), w.contiguous(), right=True)
    codes = order.to(torch.uint8).gather(-1, cells)
    bases = torch.empty(scales.shape[-1], *w.shape, dtype=torch.int8, device=w.device)
    for plane, basis in enumerate(bases):
        basis.copy_(codes >> plane & 1)
    return bases.mul_(2).sub_(1)


def solve_scales(gram: Tensor, moment: Tensor) -> Tensor:
    """The α of least norm that solves (BᵀB) α = Bᵀw: f64[o, p, p], f64[o, p, 1] → f64[o, p]."""
    if gram.is_cuda:
        return solve_without_waiting(gram, moment)
    return (torch.linalg.pinv(gram, rtol=RANK_TOLERANCE, hermitian=True) @ moment).squeeze(-1)


def solve_step(gram: Tensor, moment: Tensor) -> Tensor:
    """α_p = 2^p α_0 of the best α_0, a problem of one unknown: f64[o, p, p], f64[o, p, 1] → f64[o, p]."""
    planes = 2.0 ** torch.arange(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    step = (moment.squeeze(-1) @ planes) / (planes @ gram @ planes)
    return step.unsqueeze(-1) * planes


def solve_without_waiting(gram: Tensor, moment: Tensor) -> Tensor:
    """`solve_scales` by operations that read nothing on the host; the eigenvalues of pinv do, and wait for a GPU.

    Cholesky of BᵀB with a diagonal of 1; where a pivot says that bases repeat, of BᵀB + ε·I with ε = RANK_TOLERANCE.
    That is the solution of least norm within about 1e-5: eigenvalues are 0 or at least about 1/k, and Bᵀw has no part
    along those of 0.
    """
    size = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[:, None, None]
    gram, moment = gram / size, moment / size
    factor, failed = torch.linalg.cholesky_ex(gram)
    pivots = factor.diagonal(dim1=-2, dim2=-1).square()
    regular = (failed == 0) & (pivots > RANK_TOLERANCE * gram.shape[-1]).all(-1)
    shift = RANK_TOLERANCE * torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    factor, _ = torch.linalg.cholesky_ex(torch.where(regular[:, None, None], gram, gram + shift))
    return torch.cholesky_solve(moment, factor).squeeze(-1)


def levels_of(scales: Tensor) -> tuple[Tensor, Tensor]:
    """All Σ_p ±α_p, ascending, and their codes: f64[o, p] → (f64[o, 2^p], i64[o, 2^p]); bit p set means +α_p."""
    levels, order = (scales @ _code_signs(scales.shape[-1], scales).T).sort(-1)
    return levels, order


def _code_signs(bases: int, like: Tensor) -> Tensor:
    """±1 [2^p, p] in the dtype and on the device of `like`: row `code`, column p is +1 iff bit p of the code is set."""
    codes = torch.arange(1 << bases, device=like.device).unsqueeze(-1)
    return (codes >> torch.arange(bases, device=like.device) & 1).to(like.dtype) * 2 - 1


def edges_of(levels: Tensor) -> Tensor:
    return ((levels[..., 1:] + levels[..., :-1]) / 2).to(torch.float32)


def _alternate(rows: SortedRows, scales: Tensor, coded: bool = False) -> tuple[Tensor, Tensor]:
    """Alternate from f64[o, p] until no code changes → (scales, the part of ‖w‖² that they explain, f64[o])."""
    gain, previous = scales.new_zeros(scales.shape[0]), None
    for _ in range(ITERATIONS[scales.shape[-1] - 1]):
        levels, order = levels_of(scales)
        bounds = rows.bounds(edges_of(levels))
        # levels may pass one another without a weight between them: other codes, the same bounds
        if previous is not None and torch.equal(bounds, previous[0]) and torch.equal(order, previous[1]):
            break
        previous = bounds, order
        scales, gain = _solve(rows, order, bounds, coded)
    return scales, gain


def _solve(rows: SortedRows, order: Tensor, bounds: Tensor, coded: bool = False) -> tuple[Tensor, Tensor]:
    """Least-squares scales where the weights between `bounds` have the codes `order` i64[o, 2^p].

    →   α f64[o, p], and what it explains of ‖w‖²: bᵀα f64[o] with b = Bᵀw
    """
    counts, sums = rows.cells(bounds)
    codes = _code_signs(order.shape[-1].bit_length() - 1, rows.prefix)[order]  # [o, 2^p, p]
    gram = codes.mT @ (counts.unsqueeze(-1) * codes)
    moment = codes.mT @ sums.unsqueeze(-1)
    solved = (solve_step if coded else solve_scales)(gram, moment)
    return solved, (moment.squeeze(-1) * solved).sum(-1)


def _residual_scale(rows: SortedRows, scales: Tensor) -> Tensor:
    """mean |w - nearest level|, the scale of one more basis on the residual: f64[o, p] → f64[o, 1]."""
    levels, _ = levels_of(scales)
    middle = edges_of(levels)
    halves = torch.empty(levels.shape[0], 2 * levels.shape[1] - 1, dtype=torch.float32, device=levels.device)
    halves[:, 0::2], halves[:, 1::2] = levels.to(torch.float32), middle
    counts, sums = rows.cells(rows.bounds(halves))
    residual = sums - counts * levels.repeat_interleave(2, -1)
    return (residual[:, 1::2] - residual[:, 0::2]).sum(-1, keepdim=True) / rows.values.shape[-1]
