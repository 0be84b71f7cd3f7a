"""What is known of a layer's inputs and outputs: second moments over calibration data, by im2col rows, streaming.

For each batch the float model runs, where a layer notes its exact outputs y at a few thousand places, and the quantized
one, where it looks at the quantized inputs x̂ behind the outputs at the same places (abcfx/layers/windows.py).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abcfx.correction import rows_at
from abcfx.layers import ABCLayer
from abcfx.layers.windows import window_rows
from abcfx.quant.correction import affine_of
from abcfx.quant.weights import flatten_weight

ROWS = 2048  # of each call of a layer: for 8 batches 28 times the depth of a 3x3 window of 64 channels


class LayerMoments:
    """Moments of one layer: x̂ f[r, g, k] its quantized inputs, y f[r, g, q] its exact outputs.

    power     f64[g, k, k]  Σ x̂ x̂ᵀ        mean_x  f64[g, k]  Σ x̂
    product   f64[g, q, k]  Σ y x̂ᵀ        mean_y  f64[g, q]  Σ y          power_y  f64[g, q]  Σ y²
    """

    def __init__(self, layer: ABCLayer, generator: torch.Generator) -> None:
        self.layer, self.generator = layer, generator
        self.rows = 0
        self.sums: list[Tensor] = []
        self.noted: list[tuple[torch.Size, Tensor, Tensor]] = []

    def note(self, layer: ABCLayer, args: Any, output: Tensor) -> None:
        """Hook of the float run."""
        rows = output.numel() // max(1, output.shape[layer.channel_dim])
        places = torch.randperm(rows, generator=self.generator)[:ROWS]
        self.noted.append((output.shape, places, rows_at(output, layer.channel_dim, places)))

    def observe(self, input: Tensor, output: Tensor) -> bool:
        """Take a call of the quantized run; False if it had another shape in float (routing by data)."""
        if not self.noted or self.noted[0][0] != output.shape:
            return False
        _, places, exact = self.noted.pop(0)
        self.add(window_rows(self.layer, input, places), exact)
        return True

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Take rows: x̂ f[r, g, k], y f[r, g·q]."""
        x = inputs.float().transpose(0, 1)  # [g, r, k]
        y = outputs.float().view(len(outputs), x.shape[0], -1).transpose(0, 1)
        terms = x.mT @ x, y.mT @ x, x.sum(1), y.sum(1), y.square().sum(1)
        new = [term.double() for term in terms]
        self.sums = [old + term for old, term in zip(self.sums, new, strict=True)] if self.sums else new
        self.rows += len(outputs)

    def centered(self) -> tuple[Tensor, Tensor, Tensor]:
        """Covariances of x̂ with itself f64[g, k, k], of y with x̂ f64[g, q, k], and the variance of y f64[g, q]."""
        power, product, x, y, power_y = (term / self.rows for term in self.sums)
        covariance = power - x.unsqueeze(-1) * x.unsqueeze(-2)
        return covariance, product - y.unsqueeze(-1) * x.unsqueeze(-2), (power_y - y.square()).clamp_min(0)

    def error(self, fitted: Tensor) -> float:
        """E|y - ŷ|² / Var(y) of the weight f[g, q, k], constant errors left out."""
        covariance, product, variance = self.centered()
        fitted = fitted.double()
        error = variance - 2 * (fitted * product).sum(-1) + (fitted @ covariance * fitted).sum(-1)
        total = float(variance.sum())
        return float(error.sum()) / total if total > 0 else 0.0

    def correction(self, fitted: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
        """Gain and shift for the outputs that the weight f[g, q, k] gives (abcfx/quant/correction.py)."""
        power, product, x, y, power_y = (term / self.rows for term in self.sums)
        fitted = fitted.double()
        bias = torch.zeros_like(y) if bias is None else bias.detach().double().view_as(y)
        raw = (fitted @ x.unsqueeze(-1)).squeeze(-1)
        mean_z = raw + bias
        power_z = (fitted @ power * fitted).sum(-1) + 2 * bias * raw + bias.square()
        cross = (product * fitted).sum(-1) + bias * y
        return affine_of(*(term.flatten() for term in (y, mean_z, power_y, power_z, cross)), self.rows)


def rows_of_weight(layer: ABCLayer, weight: Tensor) -> Tensor:
    """A weight of the layer as f32[g, q, k]: groups, output channels of a group, depth."""
    groups = getattr(layer, "groups", 1)
    flat = flatten_weight(weight.detach().float(), False, groups).flatten(1)
    return flat.view(groups, -1, flat.shape[-1])
