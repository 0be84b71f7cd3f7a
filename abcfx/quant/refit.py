"""A few alternations of the weight fit from known scales: what a training step needs once its weights have moved."""

from __future__ import annotations

from torch import Tensor

from abcfx.quant.alternating import nearest_bases, solve_scales, solve_step


def refit(
    w: Tensor, scales: Tensor, alternations: int, coded: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bases and scales from the scales of a fit of almost the same weights.

    w       f32[o, k]
    scales  f32[p, o]          to start from, any order and sign
    coded                      only α_p = 2^p α_0 are looked for; `scales` are of that form
    →       int8[p, o, k]      B: codes of the nearest of the 2^p levels Σ_p ±α_p
            f32[p, o]          α: the least-squares scales of B, those of least norm where bases repeat
            f64[o], f64[o]     ‖w - Σ_p α_p B_p‖² and ‖w‖², NaN or infinite where a weight is

    Each half of an alternation minimizes ‖w - Σ_p α_p B_p‖² over one of B and α with the other fixed, so the error is
    at most that of the given scales with their nearest codes, and that at most the error of the bases they came with.
    It need not be as small as that of a new fit, which compares several starts.
    Source: Xu et al. 2018, "Alternating multi-bit quantization", section 3.
    """
    exact, alpha = w.double(), scales.T.double()
    for _ in range(alternations):
        bases = nearest_bases(w, alpha)
        planes = bases.double().transpose(0, 1)  # [o, p, k]
        gram, moment = planes @ planes.mT / w.shape[-1], planes @ exact.unsqueeze(-1) / w.shape[-1]
        alpha = _solve(gram, moment, coded)
    error = (exact - (alpha.unsqueeze(1) @ planes).squeeze(1)).square().sum(-1)
    return bases, alpha.T.to(scales.dtype), error, exact.square().sum(-1)


def _solve(gram: Tensor, moment: Tensor, coded: bool) -> Tensor:
    """solve_scales, and NaN for rows that it would refuse."""
    bad = ~moment.isfinite().all(1, keepdim=True)
    solve = solve_step if coded else solve_scales
    return solve(gram, moment.masked_fill(bad, 0)).masked_fill(bad.squeeze(-1), float("nan"))
