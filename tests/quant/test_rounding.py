"""Stochastically rounded gradients: unbiased, never clipped, reproducible, and never hiding what is not finite."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from abcfx.quant import activations, gradients

PLANES = range(1, 9)
SEEDS = 4000


def step_of(grad: Tensor, planes: int) -> Tensor:
    return gradients.gradient_step(grad.min(), grad.max(), planes)


def seed(number: int) -> Tensor:
    return torch.tensor([number])


@cache
def uniform_numbers() -> Tensor:
    """Those of SEEDS seeds for 64 elements."""
    return torch.stack([gradients.uniform(seed(s), 64) for s in range(SEEDS)])


@pytest.mark.parametrize("planes", PLANES)
def test_the_mean_over_seeds_is_the_gradient(planes: int) -> None:
    """Hoeffding: one rounding lies in an interval of one step (two for one plane), so the mean of n roundings is
    farther than r from its expectation with probability 2·exp(-2·n·(r/width)²): below 1e-9 at r = width·√(21.4/2n),
    for all 64 values together below 1e-7.
    """
    grad = torch.randn(64)
    step = step_of(grad, planes)
    codes = gradients.round_stochastic(grad * gradients.inverse_step(step), uniform_numbers(), planes)
    mean = (codes.double() * step).mean(0)
    width = float(step) * (2 if planes == 1 else 1)
    assert float((mean - grad).abs().max()) < width * (21.4 / (2 * SEEDS)) ** 0.5


@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("shape", ["normal", "positive", "negative", "one value"])
def test_nothing_is_clipped(planes: int, shape: str) -> None:
    """Every ĝ is one of the two codes around g, also for the largest and the smallest gradient."""
    grad = torch.randn(2000) ** 3
    grad = {"normal": grad, "positive": grad.abs(), "negative": -grad.abs(), "one value": torch.full((9,), 3e-9)}[shape]
    step = step_of(grad, planes)
    width = float(step) * (2 if planes == 1 else 1)
    for s in range(5):
        rounded = gradients.quantize(grad, step, seed(s), planes)
        assert float((rounded - grad).abs().max()) <= width * (1 + 2**-20)
        codes = (rounded / step).round()
        low, high = gradients.code_range(planes)
        assert low <= float(codes.min())
        assert float(codes.max()) <= high
        assert len(codes.unique()) <= 2**planes


def test_the_range_is_used_to_its_end() -> None:
    """The step is the smallest that does not clip: one end of the gradients is one end of the codes."""
    for grad, wanted in (([-8.0, 3.0], 1.0), ([-1.0, 14.0], 2.0), ([0.0, 7.0], 1.0), ([-4.0, -2.0], 0.5)):
        assert float(step_of(torch.tensor(grad), 4)) == wanted


@pytest.mark.parametrize("planes", PLANES)
def test_codes_are_levels_of_the_pack_kernels(planes: int) -> None:
    """With `code_levels` an integer code is quantized to itself, and every code is reached."""
    low, high = gradients.code_range(planes)
    codes = torch.tensor([-1.0, 1.0]) if planes == 1 else torch.arange(low, high + 1.0)
    assert len(codes) == 2**planes
    scale, shift = (torch.tensor([value]) for value in gradients.code_levels(planes))
    assert torch.equal(activations.quantize(codes, scale, shift, planes, "coded"), codes)


def test_zero_stays_zero() -> None:
    zeros = torch.zeros(50)
    for planes in PLANES:
        assert not gradients.quantize(zeros, step_of(zeros, planes), seed(1), planes).any()
        grad = torch.cat([zeros, torch.randn(50)])
        if planes > 1:  # one plane has no zero
            assert not gradients.quantize(grad, step_of(grad, planes), seed(1), planes)[:50].any()


@pytest.mark.parametrize("planes", PLANES)
def test_gradients_too_small_for_a_reciprocal_are_zero(planes: int) -> None:
    grad = torch.full((20,), 1e-42)
    rounded = gradients.quantize(grad, step_of(grad, planes), seed(1), planes)
    assert torch.equal(rounded, torch.zeros(20))


@pytest.mark.parametrize("planes", PLANES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen(planes: int, value: float) -> None:
    grad = torch.randn(20)
    grad[7] = value
    assert not gradients.quantize(grad, step_of(grad, planes), seed(3), planes).isfinite().any()


def test_a_seed_gives_the_same_rounding_and_another_seed_another() -> None:
    grad = torch.randn(1000)
    step = step_of(grad, 4)
    first = gradients.quantize(grad, step, seed(2**40 + 5), 4)
    assert torch.equal(first, gradients.quantize(grad, step, seed(2**40 + 5), 4))
    for other in (5, 6, 2**40 + 6, 2**41 + 5, -(2**40) - 5):
        assert float((first != gradients.quantize(grad, step, seed(other), 4)).float().mean()) > 0.2


def test_uniform_numbers_are_uniform_and_unrelated() -> None:
    """n = 2^18 numbers in 64 bins: χ² of 63 degrees is below 150 with probability 1 - 4e-9; correlations with the
    neighbour and with the next seed are normal with deviation 1/√n, here within 6 of them.
    """
    n = 2**18
    u = gradients.uniform(seed(17), n)
    assert 0 <= float(u.min())
    assert float(u.max()) < 1
    counts = torch.bincount((u * 64).long(), minlength=64).double()
    assert float(((counts - n / 64) ** 2 / (n / 64)).sum()) < 150
    centered, following = u - 0.5, gradients.uniform(seed(18), n) - 0.5
    for other in (centered.roll(1), centered.roll(256), following, following.roll(1)):
        assert abs(float((centered * other).double().mean()) * 12) < 6 / n**0.5


def test_planes_out_of_range() -> None:
    with pytest.raises(ValueError, match="gradient planes must be 1 to 8, got 9"):
        gradients.gradient_step(torch.zeros(1), torch.ones(1), 9)
