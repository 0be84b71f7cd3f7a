"""Every variant of refit/kernels.inc, and dequantization, against abcfx/quant/refit.py."""

from __future__ import annotations

import pytest
import torch
from kernel_abi import BAD_SHAPE, DEQUANTIZE, OK, REFIT, Guarded, call, fenced, variant, variants
from torch import Tensor

from abcfx.quant.refit import refit
from abcfx.quant.weights import dequantize_bases, fit_bases, fit_scales

NAMES = ("avx2", "portable")
SHAPES = [(5, 1, 1), (3, 1, 7), (2, 9, 1), (3, 1, 8), (3, 9, 7), (4, 1, 64), (2, 1, 65), (3, 1, 127), (2, 9, 64)]


class Operands:
    """w f32[rows, taps, channels], and the outputs of a kernel between walls."""

    def __init__(self, weight: Tensor, start: Tensor) -> None:
        self.weight, self.start, m, rows = weight, fenced(start), len(start), len(weight)
        self.bases = Guarded(m, *weight.shape, dtype=torch.int8)
        self.alpha = Guarded(m, rows, dtype=torch.float32)
        self.error, self.power = (Guarded(rows, dtype=torch.float64) for _ in range(2))
        depth = weight[0].numel()
        scratch = torch.empty(5 * (-(-depth // 64) * 64) + 64, dtype=torch.uint8)
        self.scratch = scratch[-scratch.data_ptr() % 64 :]

    def args(self, alternations: int = 1, coded: bool = False) -> REFIT:
        outputs = (self.bases, self.alpha, self.error, self.power)
        return REFIT(
            self.weight.data_ptr(), self.start.data_ptr(), *(each.tensor.data_ptr() for each in outputs),
            self.scratch.data_ptr(), len(self.start), *self.weight.shape, *self.weight.stride(),
            alternations, coded, 0, len(self.weight),
        )  # fmt: skip

    def outputs(self) -> tuple[Tensor, ...]:
        return self.bases.tensor, self.alpha.tensor, self.error.tensor, self.power.tensor


def moved(shape: tuple[int, ...], m: int) -> tuple[Tensor, Tensor]:
    """Weights some steps after their fit, and the scales of that fit."""
    before = torch.randn(shape)
    _, alpha = fit_bases(before.flatten(1), m)
    return before + 0.05 * torch.randn(shape), alpha.contiguous()


def check(found: tuple[Tensor, ...], wanted: tuple[Tensor, ...]) -> None:
    """f32 sums of 16 terms lose 1e-6 of the power; the scales are f32."""
    torch.testing.assert_close(found[1], wanted[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[3], wanted[3], rtol=2e-6, atol=0)
    assert ((found[2] - wanted[2]).abs() <= 4e-6 * wanted[3]).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("m", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("name", NAMES)
def test_an_alternation_is_that_of_the_reference(name: str, m: int, shape: tuple[int, ...]) -> None:
    kernel, (weight, alpha) = variant("refit", name), moved(shape, m)
    alpha = alpha + 0.01 * torch.rand(m, 1)  # repeated scales leave the choice of a code open
    operands = Operands(fenced(weight), alpha)
    assert kernel(operands.args()) == OK
    bases, *wanted = refit(weight.flatten(1), alpha, 1)
    assert torch.equal(operands.outputs()[0].flatten(2), bases)
    check(operands.outputs(), (bases, *wanted))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("m", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("name", NAMES)
def test_scales_that_double(name: str, m: int, shape: tuple[int, ...]) -> None:
    kernel, weight = variant("refit", name), torch.randn(shape)
    start = 2.0 ** torch.arange(m)[:, None] * (torch.rand(len(weight)) + 0.5) / 2**m
    operands = Operands(fenced(weight), start)
    assert kernel(operands.args(2, coded=True)) == OK
    bases, *wanted = refit(weight.flatten(1), start, 2, coded=True)
    assert torch.equal(operands.outputs()[0].flatten(2), bases)
    check(operands.outputs(), (bases, *wanted))
    assert torch.equal(operands.alpha.tensor[1:], 2 * operands.alpha.tensor[:-1])


@pytest.mark.parametrize("name", NAMES)
def test_more_alternations_and_strides(name: str) -> None:
    kernel, (weight, alpha) = variant("refit", name), moved((6, 40, 9), 3)
    operands = Operands(fenced(weight).transpose(1, 2), alpha)  # stored [rows, channels, taps]
    assert kernel(operands.args(alternations=5)) == OK
    wanted = refit(weight.transpose(1, 2).flatten(1), alpha, 5)
    check(operands.outputs(), wanted)
    again = torch.einsum("po,potc->otc", operands.alpha.tensor, operands.bases.tensor.float())
    error = (weight.transpose(1, 2) - again).square().sum((1, 2)).double()
    torch.testing.assert_close(operands.error.tensor, error, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("m", [2, 3, 6, 8])
@pytest.mark.parametrize("name", NAMES)
def test_equal_bases_share_their_scale(name: str, m: int) -> None:
    """Weights of two magnitudes leave most bases equal: the scales of least norm, whatever the start."""
    kernel = variant("refit", name)
    weight = torch.where(torch.randn(3, 1, 50) > 0, 0.5, -0.5)
    weight[1], weight[2, :, ::2] = 0, 2.0
    for start in (torch.ones(m, 3), torch.rand(m, 3) + 0.1):
        operands = Operands(fenced(weight), start)
        assert kernel(operands.args()) == OK
        wanted = fit_scales(weight.flatten(1), operands.bases.tensor.flatten(2))
        torch.testing.assert_close(operands.alpha.tensor, wanted, rtol=1e-5, atol=1e-6)
        assert not operands.alpha.tensor[:, 1].any()


@pytest.mark.parametrize("name", NAMES)
def test_ties_take_the_upper_level(name: str) -> None:
    """Levels -3, -1, 1, 3 and edges -2, 0, 2, which the weights hit."""
    kernel, start = variant("refit", name), torch.tensor([[2.0], [1.0]])
    weight = torch.tensor([-2.5, -2.0, -1.5, -1.0, -0.0, 0.0, 0.5, 1.0, 2.0, 2.5, -2.0, 2.0]).view(1, 1, 12)
    operands = Operands(fenced(weight), start)
    assert kernel(operands.args()) == OK
    levels = torch.einsum("po,potc->otc", start, operands.bases.tensor.float()).flatten()
    assert levels.tolist() == [-3, -1, -1, -1, 1, 1, 1, 1, 3, 3, -1, 3]
    assert torch.equal(operands.bases.tensor.flatten(2), refit(weight.flatten(1), start, 1)[0])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_shows_in_the_error(name: str, bad: float) -> None:
    kernel, (weight, alpha) = variant("refit", name), moved((3, 2, 30), 2)
    weight[1, 1, 20] = bad
    operands = Operands(fenced(weight), alpha)
    assert kernel(operands.args()) == OK
    assert operands.error.tensor.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("m", range(1, 9))
def test_variants_agree_bit_for_bit(m: int) -> None:
    weight, alpha = moved((7, 3, 75), m)
    found = []
    for name in variants("refit"):
        operands = Operands(fenced(weight), alpha)
        assert variant("refit", name)(operands.args(3)) == OK
        found.append(operands.outputs())
    assert all(torch.equal(a, b) for other in found for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_rows_write_their_own_outputs(name: str) -> None:
    kernel, (weight, alpha) = variant("refit", name), moved((6, 2, 33), 2)
    whole, part = Operands(fenced(weight), alpha), Operands(fenced(weight), alpha)
    assert kernel(whole.args()) == OK
    args = part.args()
    args.row_begin, args.row_end = 2, 5
    assert kernel(args) == OK
    for a, b, untouched in (
        (whole.bases.tensor[:, 2:5], part.bases.tensor[:, 2:5], part.bases.untouched()[:, [0, 1, 5]]),
        (whole.alpha.tensor[:, 2:5], part.alpha.tensor[:, 2:5], part.alpha.untouched()[:, [0, 1, 5]]),
        (whole.error.tensor[2:5], part.error.tensor[2:5], part.error.untouched()[[0, 1, 5]]),
    ):
        assert torch.equal(a, b)
        assert untouched.all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("field", "value"), [("bases", 0), ("bases", 9), ("alternations", 0), ("row_end", 4)])
def test_bad_arguments_are_refused(name: str, field: str, value: int) -> None:
    kernel, (weight, alpha) = variant("refit", name), moved((3, 2, 30), 2)
    operands = Operands(fenced(weight), alpha)
    args = operands.args()
    setattr(args, field, value)
    assert kernel(args) == BAD_SHAPE
    assert operands.bases.untouched().all()


@pytest.mark.parametrize(("m", "shape"), [(1, (3, 1, 5)), (2, (4, 9, 300)), (8, (2, 4, 257))])
def test_dequantized_rows(m: int, shape: tuple[int, int, int]) -> None:
    rows, taps, channels = shape
    bases, alpha = torch.randint(0, 2, (m, *shape), dtype=torch.int8) * 2 - 1, torch.randn(m, rows)
    out, sums = Guarded(rows, channels, taps, dtype=torch.float32), Guarded(rows, taps, dtype=torch.float32)
    tensors = (fenced(bases), fenced(alpha), out.tensor, sums.tensor)
    args = DEQUANTIZE(*(t.data_ptr() for t in tensors), m, *shape, 1, rows)
    assert call("abcfx_dequantize_rows", args) == OK
    wanted = dequantize_bases(bases.flatten(2), alpha).view(shape)
    assert torch.equal(out.tensor[1:], wanted.transpose(1, 2)[1:])
    torch.testing.assert_close(sums.tensor[1:], wanted.double().sum(-1).float()[1:], rtol=1e-5, atol=1e-4)
    assert out.untouched()[0].all()
    assert sums.untouched()[0].all()
