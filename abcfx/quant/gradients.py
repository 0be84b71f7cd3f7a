"""Gradients as stochastically rounded integers: g ≈ ĝ = step·k, unbiased, never clipped, K binary planes.

K >= 2   mid-tread, zero is exact        k in {-2^(K-1), ..., 2^(K-1) - 1}
             step = max(max g / (2^(K-1) - 1), -min g / 2^(K-1))
K = 1    mid-rise, no zero               k in {-1, +1},     step = max |g|

For t = g / step and u uniform on [0, 1), drawn for each element,

    K >= 2    k = ⌊t⌋ + [u < t - ⌊t⌋]               K = 1    k = 2·[u < (t + 1)/2] - 1

so E[k] = t, and E[ĝ] = g: a sum over ĝ (either product of a backward pass) has the gradient's own expectation, and its
error falls with the number of terms. |ĝ - g| < step for K >= 2, <= 2·step for K = 1. The step reaches the largest
gradient, so nothing is clipped: a clipped tail would be a bias too.

Scales fitted by least squares to sign bases, as for weights (weights.py), are not used: they minimize ‖ĝ - g‖² and
therefore shrink, E[ĝ] = g·ρ with ρ < 1 that depends on the value, a bias that no number of steps averages away.

Sources: stochastic rounding, Gupta et al. 2015; gradients in few bits with one range per sample, DoReFa (Zhou et al.
2016, eq. 12); ranges per output channel and unbiasedness, Banner et al. 2018.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_PLANES = 8
SMALLEST_STEP = 2.0**-126  # the smallest normal f32: the reciprocal of every smaller step would be infinite
_MASK = 0xFFFFFFFF


def require_planes(planes: int) -> None:
    if not 1 <= planes <= MAX_PLANES:
        raise ValueError(f"gradient planes must be 1 to {MAX_PLANES}, got {planes}")


def code_range(planes: int) -> tuple[int, int]:
    """(smallest, largest) code k of K planes."""
    require_planes(planes)
    return (-1, 1) if planes == 1 else (-(2 ** (planes - 1)), 2 ** (planes - 1) - 1)


def code_levels(planes: int) -> tuple[float, float]:
    """(Δ, o) of the "coded" levels (activations.py) whose 2^K values are exactly the codes."""
    low, _ = code_range(planes)
    return (2.0 if planes == 1 else 1.0), float(low)


def gradient_step(smallest: Tensor, largest: Tensor, planes: int) -> Tensor:
    """The step for gradients between `smallest` and `largest`, elementwise.

    smallest, largest  f32[...]   extremes of each block that shares a step
    →                  f32[...]   0 where no gradient reaches 2^-126, NaN or infinite where a gradient is

    A NaN or an infinity stays in the step, and with it in the product that the step multiplies: it is never hidden.
    """
    low, high = code_range(planes)
    step = torch.maximum(largest / high, smallest / low)
    return torch.where(step < SMALLEST_STEP, 0.0, step)


def inverse_step(step: Tensor) -> Tensor:
    """1/step, and 0 where the step is 0: all codes of such a block are those of t = 0."""
    return torch.where(step == 0, 0.0, step.reciprocal())


def uniform(seed: Tensor, count: int) -> Tensor:
    """u_i = hash(seed, i)·2^-24 for i < count: 24 random bits for each element, the same whoever draws them.

    seed  i64[1]
    →     f32[count]

    A hash of a counter and not a generator's stream, so that any thread can make any part. The 32-bit finalizer with
    constants found by search (Wellons, "Prospecting for hash functions", 2018), keyed in two places by the seed.
    """
    first, second = _keys(seed)
    x = (torch.arange(count, device=seed.device) + first) & _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15) ^ second) * 0x846CA68B) & _MASK
    return ((x ^ (x >> 16)) >> 8).float() * 2.0**-24


def _keys(seed: Tensor) -> tuple[Tensor, Tensor]:
    low, high = seed & _MASK, (seed >> 32) & _MASK
    first = _mixed(low ^ _mixed(high))
    return first, _mixed(first + 0x9E3779B9)


def _mixed(x: Tensor) -> Tensor:
    """The finalizer without a key, uint32 arithmetic in int64: the low half of a wrapped product is right."""
    x = x & _MASK
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)


def round_stochastic(t: Tensor, u: Tensor, planes: int) -> Tensor:
    """k of t = g/step for the uniform numbers u, as integral f32; the clamp only meets the rounding errors of t.

    NaN becomes the smallest code (the step is NaN then, and the result with it).
    """
    low, high = code_range(planes)
    if planes == 1:
        return torch.where(u < (t + 1) * 0.5, 1.0, -1.0)
    floor = t.floor()
    k = floor + (u < t - floor).float()
    return torch.where(k >= low, k, float(low)).clamp(max=high)


def quantize(grad: Tensor, step: Tensor, seed: Tensor, planes: int) -> Tensor:
    """ĝ = step·k in plain torch, elements counted in the order of `grad`; `step` broadcasts to it."""
    t = grad.float() * inverse_step(step)
    return round_stochastic(t, uniform(seed, t.numel()).view(t.shape), planes) * step
