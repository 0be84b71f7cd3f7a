"""flatten_weight: rows that a matrix product with the window, tap by tap, channel fastest, turns into the layer."""

import pytest
import torch
from torch.nn import functional as F

from abcfx.quant.weights import flatten_weight, unflatten_weight


def windows(x, groups, kernel):
    """Unit-stride windows of f64[n, c, h, w] as [n, groups, pixels, taps, channels_per_group]."""
    n, channels = x.shape[:2]
    unfolded = F.unfold(x, kernel).reshape(n, groups, channels // groups, kernel[0] * kernel[1], -1)
    return unfolded.permute(0, 1, 4, 3, 2)


@pytest.mark.parametrize(("outputs", "inputs", "groups"), [(6, 5, 1), (6, 4, 2), (4, 4, 4), (8, 4, 4)])
def test_convolution(outputs, inputs, groups):
    weight = torch.randn(outputs, inputs // groups, 2, 3, dtype=torch.float64)
    x = torch.randn(2, inputs, 5, 6, dtype=torch.float64)
    flat = flatten_weight(weight, False, groups)
    assert flat.shape == (outputs, 6, inputs // groups)
    rows = flat.reshape(groups, outputs // groups, 6, inputs // groups)
    expected = torch.einsum("ngxtc,gotc->ngox", windows(x, groups, (2, 3)), rows).reshape(2, outputs, 4, 4)
    torch.testing.assert_close(F.conv2d(x, weight, groups=groups), expected)  # f64: the default tolerance is 1e-7


@pytest.mark.parametrize(("outputs", "inputs", "groups"), [(6, 5, 1), (6, 4, 2), (4, 4, 4), (8, 4, 4)])
def test_transposed_convolution(outputs, inputs, groups):
    """A transposed convolution is a convolution of the padded input with the taps in reverse order."""
    weight = torch.randn(inputs, outputs // groups, 2, 3, dtype=torch.float64)
    x = torch.randn(2, inputs, 5, 6, dtype=torch.float64)
    flat = flatten_weight(weight, True, groups)
    assert flat.shape == (outputs, 6, inputs // groups)
    rows = flat.flip(1).reshape(groups, outputs // groups, 6, inputs // groups)
    padded = F.pad(x, (2, 2, 1, 1))
    expected = torch.einsum("ngxtc,gotc->ngox", windows(padded, groups, (2, 3)), rows).reshape(2, outputs, 6, 8)
    torch.testing.assert_close(F.conv_transpose2d(x, weight, groups=groups), expected)


@pytest.mark.parametrize("kernel", [(), (3,), (2, 3), (2, 3, 2)])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("groups", [1, 2])
def test_unflatten_is_the_inverse(kernel, transposed, groups):
    weight = torch.randn(4, 6, *kernel)
    flat = flatten_weight(weight, transposed, groups)
    assert torch.equal(unflatten_weight(flat, weight.shape, transposed, groups), weight)


def test_linear_is_one_tap():
    weight = torch.randn(3, 7)
    assert torch.equal(flatten_weight(weight), weight.unsqueeze(1))
