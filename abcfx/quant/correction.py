"""Output correction: per output channel, the affine map that undoes what quantization does to a layer's statistics.

Quantized weights and activations are least-squares fits, so their products are too small and off center; after a few
layers the activations no longer meet the batch norms, biases and levels that were made for them. For the exact output y
and the quantized output z of one channel, with means m, deviations σ and correlation ρ over calibration data,

    ŷ = g·z + h        g = √ρ · σ_y / σ_z        h = m_y - g·m_z

g lies (geometrically) halfway between the least-squares gain ρ·σ_y/σ_z, which shrinks the signal again in every layer,
and σ_y/σ_z, which keeps the variance but amplifies the quantization noise. Bias correction alone (g = 1) is Nagel 2019.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST_CORRELATION = 0.25  # outputs less alike than this are noise, or rows that do not belong together
LEAST_ROWS = 64  # fewer say too little: the gain would be off by 1/√64 and more


class OutputMoments:
    """Running moments of pairs (exact, quantized) of outputs, one row per sample, weighted: f64[5, channels].

    A row with mean squared error e counts for 1/(1 + e/ē), ē the median of its batch. In a transformer a few tokens
    carry activations a hundred times larger than the others; unweighted, their error would decide for all the rest.
    """

    def __init__(self) -> None:
        self.rows = 0
        self.weight = 0.0
        self.sums: Tensor | None = None

    def add(self, exact: Tensor, quantized: Tensor) -> None:
        """Take rows of f[r, channels]; row i of one belongs to row i of the other."""
        if not len(exact):
            return
        y, z = exact.detach().double(), quantized.detach().double()
        power_y = y * y
        error = torch.linalg.vector_norm(y - z, dim=-1).square() / max(1, y.shape[-1])
        floor = power_y.mean() * 1e-12 + 1e-300  # rows without error count fully, also when most have none
        weight = 1 / (1 + error / error.median().clamp(min=floor))
        sums = torch.stack([weight @ term for term in (y, z, power_y, z * z, y * z)])
        self.sums = sums if self.sums is None else self.sums + sums
        self.weight += float(weight.sum())
        self.rows += len(y)

    def affine(self) -> tuple[Tensor, Tensor]:
        """(g, h) f32[channels] of ŷ = g·z + h; g = 1 where a channel is constant, the identity after too few rows."""
        if self.sums is None:
            raise ValueError("no outputs were seen")
        return affine_of(*self.sums / self.weight, self.rows)


def affine_of(
    mean_y: Tensor, mean_z: Tensor, power_y: Tensor, power_z: Tensor, product: Tensor, rows: int
) -> tuple[Tensor, Tensor]:
    """(g, h) f32[channels] from the means of y, z, y², z² and y·z over `rows` rows, f64[channels] each."""
    variance_y, variance_z = power_y - mean_y.square(), power_z - mean_z.square()
    # what is left of the variance of a constant is rounding, 1e-12 of its power at most
    varies = (variance_y > 1e-12 * power_y) & (variance_z > 1e-12 * power_z)
    variance_y, variance_z = torch.where(varies, variance_y, 1.0), torch.where(varies, variance_z, 1.0)
    correlation = (product - mean_y * mean_z) / (variance_y * variance_z).sqrt()
    gain = (correlation.clamp(LEAST_CORRELATION, 1.0) * variance_y / variance_z).sqrt()
    gain = torch.where(varies & (rows >= LEAST_ROWS), gain, 1.0)
    shift = (mean_y - gain * mean_z) * (rows >= LEAST_ROWS)
    return gain.to(torch.float32), shift.to(torch.float32)
