"""Fit of uniform ("coded") activation levels Δ·k + o, k = 0 … 2^N - 1, in least squares."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from abcfx.quant.cells import SortedRows

STARTS = 16  # geometric clipping widths on each side; neighbours differ by 1.4
KEPT = 8  # starts that are followed to the end, after a look at all of them
ITERATIONS = 100
# With many levels the alternation hardly moves the ends of the range, so they are searched again around the best line:
# widths within these decimal orders of magnitude, NEIGHBORS on each side
ZOOMS = (0.12, 0.02)
NEIGHBORS = 9


Alternate = Callable[[SortedRows, Tensor, int, bool, int], tuple[Tensor, Tensor]]


def alternate(rows: SortedRows, lines: Tensor, top: int, anchored: bool, iterations: int) -> tuple[Tensor, Tensor]:
    """Alternate codes and line fits from f64[s, 2] = (Δ, o) → (lines f64[s, 2], error f64[s] less the constant Σx²)."""
    code = torch.arange(top + 1, dtype=torch.float64)
    previous = None
    for _ in range(iterations):
        bounds = rows.bounds((lines[:, :1] * (code[:-1] + 0.5) + lines[:, 1:]).to(torch.float32))
        if previous is not None and torch.equal(bounds, previous):
            break
        previous = bounds
        counts, sums = rows.cells(bounds)
        lines = _fit_lines(lines, code, counts, sums, anchored)
    fitted = lines[:, :1] * code + lines[:, 1:]
    return lines, (counts * fitted.square() - 2 * sums * fitted).sum(-1)


def fit_coded(rows: SortedRows, activation_bases: int, alternate: Alternate = alternate) -> tuple[Tensor, Tensor]:
    """(Δ f64[1], o f64[1]) for sorted samples f32[n].

    minimize over Δ, o   Σ (x - Δ·k(x) - o)²,   k(x) = the nearest code

    For fixed codes that is a line fitted through (k, x); for fixed Δ and o the codes are intervals of the sorted
    samples. Both steps lower the error; they alternate from many clipping ranges at once, and the best is kept, so the
    result is never worse than levels over the full range.
    Non-negative samples keep o = 0, since after ReLU zero is the commonest value and must stay exact; unless all of
    them are more than a standard deviation away from zero, where such levels would be spent on nothing.
    """
    low, high = float(rows.values[0]), float(rows.values[-1])
    top = 2**activation_bases - 1
    if low == high:  # levels from 0 to the one value seen, exact for both
        return torch.tensor([(abs(low) or 1.0) / top]).double(), torch.tensor([min(low, 0.0)]).double()
    anchored = 0 <= low <= float(rows.values.double().std(correction=0))
    center = 0.0 if anchored else float(rows.values[len(rows.values) // 2])
    values = rows.values.double()
    widths = (values - center).square().mean().sqrt() * torch.logspace(-0.4, 1.8, STARTS, dtype=torch.float64)
    above = torch.cat([widths, values[-1:] - center]).clamp(max=high - center).unique()
    below = torch.cat([widths, center - values[:1]]).clamp(max=center - low).unique()
    best, error = _search(rows, center, below, above, top, anchored, alternate)
    for zoom in ZOOMS:
        factors = torch.logspace(-zoom, zoom, NEIGHBORS, dtype=torch.float64)
        center = best[1] + (0 if anchored else best[0] * top / 2)
        below, above = factors * (center - best[1]), factors * (best[1] + best[0] * top - center)
        found, found_error = _search(rows, center, below, above, top, anchored, alternate)
        if found_error < error:
            best, error = found, found_error
    return best[:1], best[1:]


def _search(
    rows: SortedRows, center: Tensor | float, below: Tensor, above: Tensor, top: int, anchored: bool,
    alternate: Alternate,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The best line f64[2] found from the clipping ranges [center - below, center + above], and its error less Σx²."""
    ranges = torch.cartesian_prod(center - (below[:1] * 0 if anchored else below), center + above)
    ranges = ranges[ranges[:, 0] < ranges[:, 1]]
    lines = torch.stack([(ranges[:, 1] - ranges[:, 0]) / top, ranges[:, 0]], -1)
    lines, error = alternate(rows, lines, top, anchored, 2)
    lines, error = alternate(rows, lines[error.argsort(stable=True)[:KEPT]], top, anchored, ITERATIONS)
    best = error.argmin()
    return lines[best], error[best]


def _fit_lines(lines: Tensor, code: Tensor, counts: Tensor, sums: Tensor, anchored: bool) -> Tensor:
    """Least-squares (Δ, o) of x ≈ Δ·k + o; a line whose samples all share one code keeps its Δ."""
    total, moment = counts.sum(-1), (sums * code).sum(-1)
    mean_code = (counts * code).sum(-1) / total * (not anchored)
    mean = sums.sum(-1) / total * (not anchored)
    spread = (counts * (code - mean_code.unsqueeze(-1)).square()).sum(-1)
    slope = torch.where(spread > 0, (moment - total * mean_code * mean) / spread, lines[:, 0])
    return torch.stack([slope, mean - slope * mean_code], -1)
