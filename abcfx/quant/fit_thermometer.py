"""Fit of thermometer levels: N thresholds and the scales of the N planes, in least squares.

Planes on in threshold order give the levels  l_j = Σ_{q ≤ j} β_q - Σ_{q > j} β_q,  j = 0 … N, hence
β_j = (l_j - l_{j-1})/2 and one linear constraint, l_0 = -l_N: there is no constant term. A fit has two forms, and the
search covers both: N + 1 levels of which the outer two are opposite, or one threshold below (above) all samples, whose
plane is a constant, and N free levels. Non-negative activations usually want the second. Training goes on from there,
so constant planes are put where they are the next step of the staircase (`_settled`).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from abcfx.quant.cells import SortedRows

RANK_CUTS, VALUE_CUTS = 96, 64  # the search's candidates for thresholds: equally spaced in rank and in value
ITERATIONS = 50


def fit_thermometer(rows: SortedRows, activation_bases: int) -> tuple[Tensor, Tensor]:
    """(β f64[N], thresholds τ f64[N] ascending, plane q is +1 iff x >= τ_q) for sorted samples f32[n].

    A dynamic program finds the best thresholds among candidate cuts, exactly; then levels (means of their cells, the
    outer two tied) and thresholds (midpoints of levels) alternate on all samples as long as the error falls.
    """
    thresholds = _thresholds(rows, _best_cuts(rows, activation_bases))
    scales, error = _scales(rows, thresholds)
    for _ in range(ITERATIONS):
        levels = torch.cat([-scales.sum().reshape(1), 2 * scales.cumsum(0) - scales.sum()])
        # midpoints are best only between ascending levels; outer planes that are constant stay so
        middle = (levels[1:] + levels[:-1]) / 2
        inside = (thresholds > rows.values[0]) & (thresholds <= rows.values[-1])
        candidate = torch.where(inside, middle, thresholds).sort().values
        candidate_scales, candidate_error = _scales(rows, candidate)
        if candidate_error > error or torch.equal(candidate, thresholds):
            break
        thresholds, scales, error = candidate, candidate_scales, candidate_error
    return _settled(rows, scales, thresholds)


def _settled(rows: SortedRows, scales: Tensor, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """The same x̂ of all samples, with the planes that are constant on them as upward steps next to them.

    The sum c of the constants stays, in equal parts: as planes that are +1 below the samples if c > 0, else -1 above.
    Their threshold is midway between the levels beside it, |c|/10 off the samples at least. Far out, as a cut leaves
    it, a step would lie where no sample ever comes; a step down would turn the gradient around.
    """
    low, high = rows.values[0].double(), rows.values[-1].double()
    places = thresholds.to(torch.float32)
    below, above = places <= rows.values[0], places > rows.values[-1]
    constant = below | above
    total = (scales * below).sum() - (scales * above).sum()
    if not total:
        return scales, thresholds
    size, others, inner = total.abs(), scales[~constant], thresholds[~constant]
    reach = others.sum()
    betas, outer = size.expand(int(constant.sum())) / constant.sum(), size / 10
    if total > 0:
        place = torch.minimum(-reach, low - outer).expand(len(betas))
        return torch.cat([betas, others]), torch.cat([place, inner])
    place = torch.maximum(reach, high + outer).expand(len(betas))
    return torch.cat([others, betas]), torch.cat([inner, place])


def _cuts(values: np.ndarray) -> np.ndarray:
    """Candidate cuts as positions in the sorted samples, 0 and n included; equal values are never separated."""
    n, low, high = len(values), values[0], values[-1]
    ranks = values[np.linspace(0, n - 1, RANK_CUTS).astype(np.int64)]
    steps = np.linspace(low, high, VALUE_CUTS, dtype=values.dtype)
    cuts = np.searchsorted(values, np.concatenate([ranks, steps]))
    first_change, last_change = np.searchsorted(values, low, "right"), np.searchsorted(values, high)
    return np.unique(np.concatenate([cuts, [0, first_change, last_change, n]]))


def _best_cuts(rows: SortedRows, planes: int) -> list[int]:
    """Positions of the `planes` best cuts, by dynamic programming over intervals of the candidates.

    middle[k][a, b]  least error of the samples between cuts a and b in k free cells
    outer[a, b]      error of the samples before a at level -t and from b on at level t, best t
    """
    values = rows.values.numpy()
    cuts = _cuts(values)
    count, total = cuts.astype(np.float64), rows.prefix.numpy()[cuts]
    power = np.concatenate([[0.0], np.cumsum(np.square(values, dtype=np.float64))])[cuts]
    counts, sums, powers = (part[None, :] - part[:, None] for part in (count, total, power))
    ordered = counts >= 0
    cell = np.where(ordered, powers - np.square(sums) / np.maximum(np.abs(counts), 1), np.inf)
    middle, choices = np.where(counts == 0, 0.0, np.inf), []
    for _ in range(planes - 1):
        paths = middle[:, :, None] + cell[None, :, :]
        choices.append(paths.argmin(1))
        middle = paths.min(1)
    opposite = (total[-1] - total)[None, :] - total[:, None]
    outer_count = np.maximum(count[:, None] + (count[-1] - count)[None, :], 1)
    outer = power[:, None] + (power[-1] - power)[None, :] - np.square(opposite) / outer_count
    first, last = np.unravel_index(np.argmin(middle + outer), middle.shape)
    path = [last]
    for choice in reversed(choices):
        path.append(choice[first, path[-1]])
    return [int(cuts[index]) for index in reversed(path)]


def _thresholds(rows: SortedRows, positions: list[int]) -> Tensor:
    """Thresholds f64 that cut the sorted samples at these positions: midway to the neighbours, or well outside."""
    values = rows.values.double()
    padded = torch.cat([values[:1] - 1, values, values[-1:] + 1])  # a cut at either end lies off the samples by ½
    cuts = torch.tensor(positions)
    return (padded[cuts] + padded[cuts + 1]) / 2


def _scales(rows: SortedRows, thresholds: Tensor) -> tuple[Tensor, Tensor]:
    """β f64[N] by least squares for fixed thresholds, and the error less the constant Σx²."""
    counts, sums = rows.cells(rows.bounds(thresholds.to(torch.float32)))
    ends = (counts[0] + counts[-1]).clamp(min=1)
    outer = (sums[-1] - sums[0]) / ends
    levels = sums / counts.clamp(min=1)
    levels[0], levels[-1] = -outer, outer
    error = (counts * levels.square() - 2 * sums * levels).sum()
    for j in range(1, len(levels) - 1):  # an empty cell costs nothing: its level repeats, so that its plane has β = 0
        if counts[j] == 0:
            levels[j] = levels[j - 1]
    return levels.diff() / 2, error
