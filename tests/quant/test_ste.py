"""Straight-through adjoints: stated values, and autograd of the forward with only the rounding replaced."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from abcfx.quant.activations import quantize
from abcfx.quant.ste import activation_adjoint, activation_windows, dither, weight_adjoint, window_adjoint


def tensor(*values):
    return torch.tensor(values, dtype=torch.float32)


def through(forward, backward):
    """`forward` in value, `backward` in gradient."""
    return backward + (forward - backward).detach()


def coded_reference(x, scale, shift, bases):
    t = ((x - shift) / scale).clamp(0, 2**bases - 1)  # clamp passes gradients at both ends, as the stated window does
    return through(t.round(), t) * scale + shift


def thermometer_reference(x, scale, shift):
    h = (x + shift.unsqueeze(-1)).clamp(0, 1)
    return (scale.unsqueeze(-1) * through(torch.where(h >= 0.5, 1.0, -1.0), h)).sum(0)


def reference_gradients(forward, grad, *inputs):
    inputs = [value.clone().requires_grad_() for value in inputs]
    return torch.autograd.grad(forward(*inputs), inputs, grad)


@pytest.mark.parametrize("bases", [1, 2, 3, 8])
@pytest.mark.parametrize("start", [0.0, -0.9])
def test_coded_adjoint_is_autograd_with_the_rounding_passed_through(bases, start):
    x, grad, scale, shift = torch.randn(4, 60), torch.randn(4, 60), tensor(0.37), tensor(start)
    dx, dscale, dshift = activation_adjoint(grad, x, scale, shift, bases, "coded")
    expected = reference_gradients(lambda x, s, o: coded_reference(x, s, o, bases), grad, x, scale, shift)
    rate = (x.numel() * (2**bases - 1)) ** -0.5
    torch.testing.assert_close(dx, expected[0], rtol=1e-5, atol=1e-6)  # f32: scale · (1/scale) is 1 up to rounding
    bound = 1e-6 * float(grad.abs().sum()) * 2**bases  # f32 sums of 240 terms of this size
    torch.testing.assert_close(dscale, expected[1] * rate, rtol=1e-5, atol=bound)
    torch.testing.assert_close(dshift, expected[2] * rate, rtol=1e-5, atol=bound)
    reference = coded_reference(x, scale, shift, bases)
    torch.testing.assert_close(quantize(x, scale, shift, bases, "coded"), reference, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("bases", [1, 2, 5])
def test_thermometer_adjoint_is_autograd_with_the_sign_passed_through(bases):
    x, grad, scale, shift = torch.randn(3, 50), torch.randn(3, 50), torch.rand(bases), torch.randn(bases)
    found = activation_adjoint(grad, x, scale, shift, bases, "thermometer")
    expected = reference_gradients(
        lambda x, s, v: thermometer_reference(x.reshape(-1), s, v).reshape(x.shape), grad, x, scale, shift
    )
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6 * float(grad.abs().sum()))


def test_coded_values():
    """Δ = 0.5, o = -1, N = 2: levels -1, -0.5, 0, 0.5; below, on the lower end, inside, on the upper end, above."""
    x, grad = tensor(-1.1, -1.0, -0.6, 0.3, 0.5, 0.9), tensor(1, 2, 3, 4, 5, 6)
    dx, dscale, dshift = activation_adjoint(grad, x, tensor(0.5), tensor(-1.0), 2, "coded")
    assert torch.equal(dx, tensor(0, 2, 3, 4, 5, 0))
    rate = (6 * 3) ** -0.5
    # ⌊t⌉ - t: -0.6 → t = 0.8 → 0.2;  0.3 → t = 2.6 → 0.4
    torch.testing.assert_close(dscale, tensor((3 * 0.2 + 4 * 0.4 + 6 * 3) * rate))
    torch.testing.assert_close(dshift, tensor((1 + 6) * rate))


def test_thermometer_values():
    """v = 0.25: the window 0 <= x + v <= 1 is -0.25 <= x <= 0.75, the threshold 0.25."""
    x, grad = tensor(-0.5, -0.25, 0.0, 0.25, 0.75, 1.0), tensor(1, 2, 3, 4, 5, 6)
    dx, dscale, dshift = activation_adjoint(grad, x, tensor(2.0), tensor(0.25), 1, "thermometer")
    assert torch.equal(dx, tensor(0, 4, 6, 8, 10, 0))
    assert torch.equal(dscale, tensor(-1 - 2 - 3 + 4 + 5 + 6))
    assert torch.equal(dshift, tensor(2.0 * (2 + 3 + 4 + 5)))


def test_nan_takes_no_gradient():
    x, grad = tensor(torch.nan, 0.25), tensor(1, 1)
    dx, dscale, dshift = activation_adjoint(grad, x, tensor(1.0), tensor(0.0), 1, "coded")
    assert torch.equal(dx, tensor(0, 1))
    torch.testing.assert_close(dscale, tensor(-0.25 * 2**-0.5))
    torch.testing.assert_close(dshift, tensor(2**-0.5))
    dx, dscale, dshift = activation_adjoint(grad, x, tensor(1.0), tensor(0.5), 1, "thermometer")
    assert torch.equal(dx, tensor(0, 1))
    assert torch.equal(dscale, tensor(-1 + 1))
    assert torch.equal(dshift, tensor(1.0))


def test_descent_on_the_scale_reduces_the_error():
    """Following the pseudo-gradient of ‖x - x̂‖² from a step three times too wide, and from one three times too narrow,
    comes back to within a tenth of the least error."""
    x = torch.randn(2000).relu()
    errors = torch.stack(
        [
            (x - quantize(x, tensor(step), tensor(0.0), 2, "coded")).square().mean()
            for step in torch.arange(0.2, 2, 0.02)
        ]
    )
    for scale in (tensor(1.9), tensor(0.2)):
        for _ in range(300):
            grad = 2 * (quantize(x, scale, tensor(0.0), 2, "coded") - x)
            scale = scale - 1e-2 * activation_adjoint(grad, x, scale, tensor(0.0), 2, "coded")[1]
        assert (x - quantize(x, scale, tensor(0.0), 2, "coded")).square().mean() <= 1.1 * errors.min()


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3), (0, 3)])
def test_types_and_empty_inputs(levels, dtype, shape):
    count = 1 if levels == "coded" else 2
    scale, shift = torch.full((count,), 0.5), torch.zeros(count)
    dx, dscale, dshift = activation_adjoint(torch.ones(shape), torch.rand(shape).to(dtype), scale, shift, 2, levels)
    assert (dx.shape, dx.dtype) == (shape, dtype)
    assert (dscale.shape, dscale.dtype) == (scale.shape, torch.float32)
    assert (dshift.shape, dshift.dtype) == (shift.shape, torch.float32)
    assert torch.isfinite(torch.cat([dscale, dshift])).all()


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_one_trace_serves_every_shape(levels):
    count = 1 if levels == "coded" else 2
    scale, shift = torch.full((count,), 0.5), torch.zeros(count)

    def adjoint(grad, x, scale, shift):
        return activation_adjoint(grad, x, scale, shift, 2, levels)

    traced = make_fx(adjoint, tracing_mode="symbolic")(torch.ones(3, 4), torch.rand(3, 4), scale, shift)
    grad, x = torch.randn(5, 2), torch.randn(5, 2)
    for found, expected in zip(traced(grad, x, scale, shift), adjoint(grad, x, scale, shift), strict=True):
        torch.testing.assert_close(found, expected)


def test_the_dither_is_uniform_and_knows_nothing_of_its_neighbours():
    """Deviations of a mean, a second moment and a lagged product of n of them: 1/√(12n), 1/√(180n), 1/(12√n)."""
    n = 2**20
    u = dither(torch.empty(n)).double() - 0.5
    assert u.min() == -0.5  # element 0
    assert u.max() < 0.5
    assert abs(u.mean()) < 5 / (12 * n) ** 0.5
    assert abs(u.square().mean() - 1 / 12) < 5 / (180 * n) ** 0.5
    for lag in (1, 2, 3, 4, 8, 16, 64, 256, 1024, 4096):
        assert abs((u[:-lag] * u[lag:]).mean()) < 5 / (12 * n**0.5), lag


def test_a_window_bit_is_the_residual_on_average():
    """In each of 16 slices of r, of about 65536 elements: the mean of bit - 0.5 - r within five deviations 0.5/√n."""
    t = torch.rand(2**20) * 3
    inside, bit = activation_windows(t, tensor(1.0), tensor(0.0), 2, "coded")
    assert inside.all()
    residual = t.round() - t
    error = bit.double() - 0.5 - residual
    for place in range(16):
        chosen = error[((residual + 0.5) * 16).floor().clamp_max(15) == place]
        assert abs(chosen.mean()) < 5 * 0.5 / len(chosen) ** 0.5, place


def test_coded_windows():
    """K = 3: outside, the bit says above; on a level the bit is a fair coin; NaN is outside and not above."""
    x = tensor(-torch.inf, -0.1, -0.0, 1.0, 3.0, 3.1, torch.inf, torch.nan)
    inside, bit = activation_windows(x, tensor(1.0), tensor(0.0), 2, "coded")
    assert inside.tolist() == [False, False, True, True, True, False, False, False]
    assert bit[~inside].tolist() == [False, False, True, True, False]


def test_thermometer_windows():
    """v = 0.25: the window is -0.25 <= x <= 0.75, minus is x < 0.25 or NaN."""
    x = tensor(-0.5, -0.25, 0.0, 0.25, 0.75, 1.0, torch.nan)
    window, minus = activation_windows(x, tensor(2.0), tensor(0.25), 1, "thermometer")
    assert window.tolist() == [False, True, True, True, True, False, False]
    assert minus.tolist() == [True, True, True, False, False, False, True]


def test_window_adjoint_of_coded_values():
    """N = 2, rate = 1/√(4·3); inside with bit 1 and bit 0, above, below."""
    windows = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    dx, dscale, dshift = window_adjoint(tensor(1, 2, 4, 8), windows, tensor(0.5), 2, "coded")
    assert torch.equal(dx, tensor(1, 2, 0, 0))
    torch.testing.assert_close(dscale, tensor((0.5 * 1 - 0.5 * 2 + 3 * 4) * 12**-0.5))
    torch.testing.assert_close(dshift, tensor((4 + 8) * 12**-0.5))


@pytest.mark.parametrize("bases", [1, 2, 5])
def test_window_adjoint_of_thermometer_levels_is_the_one_that_keeps_x(bases):
    x, grad, scale, shift = torch.randn(150), torch.randn(150), torch.rand(bases), torch.randn(bases)
    windows = activation_windows(x, scale, shift, bases, "thermometer")
    found = window_adjoint(grad, windows, scale, bases, "thermometer")
    for value, wanted in zip(found, activation_adjoint(grad, x, scale, shift, bases, "thermometer"), strict=True):
        assert torch.equal(value, wanted)


@pytest.mark.parametrize(("transposed", "groups"), [(False, 1), (True, 1), (True, 2)])
def test_weight_adjoint_of_the_paper_scales_each_output_channel(transposed, groups):
    """dW = Σ_p α_p²·dŴ: the derivative of Σ_p α_p·B_p with ∂B_p/∂w = α_p (eq. 5), channel by channel."""
    grad = torch.randn(4, 6, 3)
    outputs = 6 * groups if transposed else 4
    scales = torch.rand(2, outputs)
    got = weight_adjoint(grad, scales, transposed, groups)
    for o in range(outputs):
        channel = (slice(o // 6 * 2, o // 6 * 2 + 4 // groups), o % 6) if transposed else (o,)
        factor = scales[0, o] ** 2 + scales[1, o] ** 2
        assert torch.allclose(got[channel], grad[channel] * factor, rtol=1e-6)
