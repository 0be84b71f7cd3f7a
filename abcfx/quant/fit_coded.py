"""Fit of uniform ("coded") activation levels Δ·k + o, k = 0 … 2^N - 1, in least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.quant.cells import SortedRows

STARTS = 24  # clipping ranges tried, geometric: neighbours differ by a fifth, well inside one basin of the alternation
WIDEST = 64.0  # widest clipping range tried besides the full one, in units of the root mean square
ITERATIONS = 30


def fit_coded(rows: SortedRows, activation_bases: int, unit: float) -> tuple[Tensor, Tensor]:
    """(Δ f64[1], o f64[1]) in units of the samples, which come divided by `unit` so that the largest magnitude is 1.

    minimize over Δ, o   Σ (x - Δ·k(x) - o)²,   k(x) = the nearest code

    For fixed codes that is a line fitted through (k, x); for fixed Δ and o the codes are intervals of the sorted samples.
    Both steps lower the error; they alternate from many clipping ranges at once, and the best is kept.
    Non-negative samples keep o = 0 (after ReLU zero is the commonest value and must stay exact).
    """
    values = rows.values[0]
    low, high = float(values[0]), float(values[-1])
    top = 2**activation_bases - 1
    if low == high:
        return _constant(low, top, unit)
    starts = _ranges(values, min(low, 0.0) if low >= 0 else low, high)
    step, offset = (starts[:, 1] - starts[:, 0]) / top, starts[:, 0]
    step, offset = _alternate(rows, step, offset, top, fixed_offset=low >= 0)
    return (step * unit).reshape(1), (offset * unit).reshape(1)


def _constant(value: float, top: int, unit: float) -> tuple[Tensor, Tensor]:
    """Levels that end at the one value seen and hold 0: exact for both."""
    step = (abs(value) or 1.0) / top * unit
    return torch.tensor([step], dtype=torch.float64), torch.tensor([min(value, 0.0) * unit], dtype=torch.float64)


def _ranges(values: Tensor, low: float, high: float) -> Tensor:
    """Clipping ranges to start from, f64[starts, 2]: both ends shrink from the full range towards the bulk."""
    bulk = float(values.double().square().mean().sqrt())
    ends = torch.logspace(-0.5, 1.8, STARTS, dtype=torch.float64) * bulk  # 0.3 to 63 rms
    uppers = torch.cat([ends.clamp(max=high), ends.new_tensor([high])]).unique()
    if low >= 0:
        return torch.stack([torch.zeros_like(uppers), uppers], -1)
    lowers = -torch.cat([ends.clamp(max=-low), ends.new_tensor([-low])]).unique()
    return torch.cartesian_prod(lowers, uppers)


def _alternate(rows, step, offset, top, fixed_offset):
    raise NotImplementedError
