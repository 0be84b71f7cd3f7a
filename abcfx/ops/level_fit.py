"""`fit` of abcfx/quant/activations.py on the compiled alternation: the same levels, many times sooner on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.quant.activations import FITS
from abcfx.quant.activations import fit as fit_with
from abcfx.quant.cells import SortedRows
from abcfx.quant.fit_coded import fit_coded


def fit(samples: Tensor, activation_bases: int, levels: str) -> tuple[Tensor, Tensor]:
    """Scale and shift that make ‖x - x̂‖² over the samples small, as abcfx.quant.activations.fit says."""
    return fit_with(samples, activation_bases, levels, _COMPILED)


def _alternate(rows: SortedRows, lines: Tensor, top: int, anchored: bool, iterations: int) -> tuple[Tensor, Tensor]:
    return torch.ops.abc_k.fit_lines(rows.values, rows.prefix, lines, top, anchored, iterations)


def _fit_coded(rows: SortedRows, activation_bases: int) -> tuple[Tensor, Tensor]:
    return fit_coded(rows, activation_bases, _alternate)


_COMPILED = {**FITS, "coded": _fit_coded}
