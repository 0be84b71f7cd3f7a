"""x ≈ Σ_q β_q A_q + c: the two kinds of levels against their definition, number by number."""

import numpy as np
import pytest
import torch

from abcfx.quant.activations import coefficients, dequantize, planes, quantize

SPECIAL = [0.0, -0.0, 1e-45, -1e-45, torch.inf, -torch.inf, torch.nan, -torch.nan, 3e38, -3e38, 0.5, 1.5, 2.5]


def tensor(*values):
    return torch.tensor(values, dtype=torch.float32)


def samples():
    return torch.cat([3 * torch.randn(500), tensor(*SPECIAL), (torch.arange(-20, 20) + 0.5) * 0.25])


def code_by_hand(value, scale, shift, bases):
    value, reciprocal = np.float32(value), np.float32(1) / np.float32(scale)
    if np.isnan(value):
        return 0
    steps = np.float32(np.float32(value - np.float32(shift)) * reciprocal)
    return int(min(max(np.rint(steps), 0), 2**bases - 1))  # np.rint takes halves to even


@pytest.mark.parametrize("bases", range(1, 9))
@pytest.mark.parametrize(("scale", "shift"), [(0.25, 0.0), (0.1, -0.35), (0.7, 0.2), (3e-39, 0.0)])
def test_coded_planes_are_the_code_bits(bases, scale, shift):
    x = samples()
    found = planes(x, tensor(scale), tensor(shift), bases, "coded")
    assert found.shape == (bases, len(x))
    with np.errstate(over="ignore"):
        codes = [code_by_hand(value, scale, shift, bases) for value in x.tolist()]
    expected = [[1.0 if code >> q & 1 else -1.0 for code in codes] for q in range(bases)]
    assert torch.equal(found, torch.tensor(expected))


@pytest.mark.parametrize("bases", range(1, 9))
def test_thermometer_planes_are_comparisons(bases):
    x, shift = samples(), torch.linspace(-1.25, 1.5, bases)
    found = planes(x, torch.ones(bases), shift, bases, "thermometer")
    limits = [np.float32(0.5) - np.float32(v) for v in shift.tolist()]
    expected = [[1.0 if np.float32(value) >= limit else -1.0 for value in x.tolist()] for limit in limits]
    assert torch.equal(found, torch.tensor(expected))


def test_thermometer_is_the_clipped_sign_of_the_paper():
    """sign(clip(x + v, 0, 1) - 0.5), for numbers whose sums are exact, 0 counting as +1."""
    x, shift = torch.arange(-64, 65) / 16, tensor(-0.75, 0.0, 0.25, 1.5)
    clipped = (x + shift.unsqueeze(-1)).clamp(0, 1) - 0.5
    assert torch.equal(planes(x, torch.ones(4), shift, 4, "thermometer"), torch.where(clipped >= 0, 1.0, -1.0))


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("bases", range(1, 9))
def test_planes_and_coefficients_make_the_quantized_value(levels, bases):
    count = 1 if levels == "coded" else bases
    scale, shift = torch.rand(count) + 0.1, torch.randn(count)
    x = 3 * torch.randn(4, 50)
    beta, constant = coefficients(scale, shift, bases, levels)
    assert beta.shape == (bases,)
    assert constant.shape == ()
    found = quantize(x, scale, shift, bases, levels)
    sums = torch.einsum("q,qrk->rk", beta, planes(x, scale, shift, bases, levels)) + constant
    # at most 8 terms whose magnitudes sum to this
    torch.testing.assert_close(found, sums, rtol=0, atol=1e-6 * float(beta.abs().sum() + constant.abs()))


@pytest.mark.parametrize("bases", range(1, 9))
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_planes_give_the_quantized_value_back(levels, bases):
    """Bit for bit, so that a backward pass on unpacked planes is the one on the values."""
    scale = torch.rand(1 if levels == "coded" else bases) + 0.05
    shift = torch.randn(len(scale))
    x = samples().reshape(-1, 1)
    signs = planes(x, scale, shift, bases, levels)
    assert torch.equal(dequantize(signs, scale, shift, levels), quantize(x, scale, shift, bases, levels))


@pytest.mark.parametrize("bases", [1, 2, 4, 8])
def test_coded_values_are_the_nearest_levels(bases):
    x, scale, shift = torch.randn(1000), tensor(0.11), tensor(-0.6)
    found = quantize(x, scale, shift, bases, "coded")
    grid = 0.11 * torch.arange(2**bases) - 0.6
    nearest = (x.unsqueeze(-1) - grid).abs().amin(-1)
    torch.testing.assert_close((x - found).abs(), nearest, rtol=0, atol=1e-5)  # f32 of values up to 28


def test_nan_is_the_lowest_level():
    x = tensor(torch.nan, -torch.nan)
    assert torch.equal(quantize(x, tensor(0.5), tensor(-1.0), 3, "coded"), tensor(-1.0, -1.0))
    assert torch.equal(quantize(x, tensor(0.5, 0.25), tensor(0.0, 1.0), 2, "thermometer"), tensor(-0.75, -0.75))


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (3, 4)])
def test_shapes_and_types(levels, dtype, shape):
    count = 1 if levels == "coded" else 3
    scale, shift = torch.full((count,), 0.5), torch.full((count,), 0.25)
    x = torch.randn(shape).to(dtype)
    found = quantize(x, scale, shift, 3, levels)
    assert (found.shape, found.dtype) == (x.shape, dtype)
    assert torch.equal(found, quantize(x.float(), scale, shift, 3, levels).to(dtype))
    bases = planes(x, scale, shift, 3, levels)
    assert (bases.shape, bases.dtype) == ((3, *shape), torch.float32)


def test_strides_do_not_matter():
    x = torch.randn(6, 5, 4)
    scale, shift = tensor(0.3), tensor(-0.5)
    assert torch.equal(
        quantize(x.permute(2, 0, 1), scale, shift, 2, "coded"), quantize(x, scale, shift, 2, "coded").permute(2, 0, 1)
    )


def test_unknown_levels():
    with pytest.raises(ValueError, match="levels must be one of coded, thermometer, got 'ternary'"):
        quantize(torch.ones(2), torch.ones(1), torch.zeros(1), 2, "ternary")


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_half_precision_levels_have_the_thresholds_that_the_kernels_read(levels: str) -> None:
    """The reciprocal of a step rounded to bf16 would put some inputs on the other side."""
    x, n = torch.linspace(-2, 2, 20001), 3 if levels == "thermometer" else 1
    scale, shift = (torch.randn(n, generator=torch.Generator().manual_seed(3)).abs().bfloat16() for _ in range(2))
    got = quantize(x, scale, -shift, 3, levels)
    assert torch.equal(got, quantize(x, scale.float(), -shift.float(), 3, levels))
