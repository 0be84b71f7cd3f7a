"""Straight-through adjoints: stated values, and autograd of the forward with only the rounding replaced."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from abcfx.quant.activations import fit, quantize
from abcfx.quant.ste import (
    activation_adjoint,
    activation_windows,
    dither,
    thermometer_windows,
    weight_adjoint,
    window_adjoint,
)


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
    found = activation_adjoint(grad, x, scale, shift, bases, "thermometer", "abc")
    expected = reference_gradients(
        lambda x, s, v: thermometer_reference(x.reshape(-1), s, v).reshape(x.shape), grad, x, scale, shift
    )
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted, rtol=1e-5, atol=1e-6 * float(grad.abs().sum()))


def staircase(bases, negative=False):
    """Thresholds in no order, four of them at one place if there are as many, and jumps of either sign."""
    scale, shift = torch.rand(bases) + 0.1, torch.randn(bases) / 2
    shift[::2] = shift[0] if bases > 6 else shift[::2]
    return (torch.where(torch.rand(bases) < 0.5, -scale, scale) if negative else scale), shift


def ramps_reference(x, scale, shift):
    """Each step replaced by a ramp over its window, written once more from the docstring, in f64 and window by window;
    x and v move along the ramp, β scales the sign."""
    beta, t = scale.detach().double(), 0.5 - shift.detach().double()
    order, out = t.argsort(stable=True).tolist(), 0.0
    for at, q in enumerate(order):
        before, after = (order[at - 1] if at else None), (order[at + 1] if at + 1 < len(order) else None)
        ends = []
        for other, side in ((before, -1), (after, 1)):
            share = 1.0 if other is None else abs(beta[q]) / (abs(beta[q]) + abs(beta[other]))
            ends.append(t[q] + (side * abs(beta[q]) if other is None else (t[other] - t[q]) * share))
        width = max(float(ends[1] - ends[0]), abs(float(beta[q])))
        inside = (x.detach() >= ends[0]) & (x.detach() < ends[1])
        sign = torch.where(x.detach() >= 0.5 - shift[q], 1.0, -1.0)
        out = out + scale[q] * sign + 2 * beta[q] / width * inside * (through(0.0 * x, x) + through(0.0 * x, shift[q]))
    return out.to(x.dtype)


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("bases", [1, 2, 3, 8])
def test_tiling_adjoint_is_autograd_of_ramps(bases, negative):
    scale, shift = staircase(bases, negative)
    x, grad = torch.randn(400) * 2, torch.randn(400)
    found = activation_adjoint(grad, x, scale, shift, bases, "thermometer")
    expected = reference_gradients(ramps_reference, grad, x, scale, shift)
    for value, wanted in zip(found, expected, strict=True):
        torch.testing.assert_close(value, wanted.float(), rtol=1e-4, atol=1e-6 * float(grad.abs().sum()))


@pytest.mark.parametrize("bases", [1, 2, 3, 5, 8])
def test_tiles_leave_no_gap_and_do_not_overlap(bases):
    """Every float from the first to the last edge lies in exactly one window: the numbers around all edges, and many
    between. None beyond does."""
    for _ in range(20):
        scale, shift = staircase(bases, negative=True)
        edges, slopes = thermometer_windows(scale, shift, "identity")
        low, high = edges
        near = (edges.flatten().view(torch.int32)[:, None] + torch.arange(-8, 9, dtype=torch.int32)).view(torch.float32)
        x = torch.cat([near.flatten(), torch.linspace(float(low.min()), float(high.max()), 2000)])
        covered = ((x >= low[:, None]) & (x <= high[:, None])).sum(0)
        assert torch.equal(covered, ((x >= low.min()) & (x <= high.max())).long())
        first, last = (0.5 - shift).min(), (0.5 - shift).max()
        ends = [scale[0.5 - shift == t].abs() for t in (first, last)]
        assert (first - low.min() - ends[0]).abs().min() < 1e-5  # of thresholds at one place any may be the outer one
        assert (high.max() - last - ends[1]).abs().min() < 1e-5
        assert (slopes.abs() <= 2 * (1 + 1e-6)).all()
        assert torch.equal(slopes.sign(), scale.sign())


@pytest.mark.parametrize("bases", [2, 3, 5])
@pytest.mark.parametrize("kind", ["normal", "relu", "negative"])
def test_fitted_levels_pass_the_gradient_as_a_clamp_does(bases, kind):
    """Thresholds midway between levels: all slopes are 1 from the lowest to the highest level, but for what the last
    step of the fit leaves. The paper's windows leave out more than a third of these samples, of three units' deviation.
    """
    x = 3 * torch.randn(20_000)
    x = {"normal": x, "relu": x.relu(), "negative": -x.abs() - 1}[kind]
    scale, shift = fit(x, bases, "thermometer")
    inside = (x >= -scale.sum()) & (x <= scale.sum())
    assert inside.float().mean() > 0.75
    dx, _, _ = activation_adjoint(torch.ones_like(x), x, scale, shift, bases, "thermometer")
    torch.testing.assert_close(dx[inside], torch.ones(int(inside.sum())), rtol=0.05, atol=0)
    paper, _, _ = activation_adjoint(torch.ones_like(x), x, scale, shift, bases, "thermometer", "abc")
    assert (paper[inside] == 0).float().mean() > 0.35


@pytest.mark.parametrize("negative", [False, True])
@pytest.mark.parametrize("bases", [1, 2, 4])
def test_the_slope_is_that_of_the_staircase_in_the_mean(bases, negative):
    """Finite differences of mean x̂ over inputs even on one window: moving them by h, all of them at once, moves the
    mean by h·slope, where no other threshold is crossed."""
    shift = torch.arange(bases) * -2.0 + torch.rand(bases) * 0.3
    scale = (torch.rand(bases) + 0.5) * (-1 if negative else 1)
    edges, slopes = thermometer_windows(scale, shift, "identity")
    for q in range(bases):
        low, high = edges[:, q].double()
        x = low + (high - low) * (torch.arange(200_000) + 0.5).double() / 200_000
        h = 0.05 * (high - low)
        up, down = ((x + side * h - (0.5 - shift[q]) >= 0).double() * 2 - 1 for side in (1, -1))
        rate = float(scale[q] * (up - down).mean() / (2 * h))
        assert rate == pytest.approx(float(slopes[q]), rel=1e-3)
        total = quantize(high.float()[None], scale, shift, bases, "thermometer") - quantize(
            low.float()[None], scale, shift, bases, "thermometer"
        )
        assert float(total) == pytest.approx(float(slopes[q] * (high - low)), rel=1e-4)


def test_thresholds_at_one_place_and_scales_of_zero_are_finite():
    scale, shift = tensor(0.5, 0.5, 0.5, 0.0, 0.0), tensor(0.1, 0.1, 0.1, 0.1, 3.0)
    edges, slopes = thermometer_windows(scale, shift, "identity")
    assert torch.isfinite(edges).all()
    assert torch.equal(slopes[3:], tensor(0.0, 0.0))
    assert (slopes.abs() <= 2).all()
    assert torch.equal(thermometer_windows(tensor(0.0), tensor(0.0), "identity")[1], tensor(0.0))


def test_windows_need_a_rule_and_edges():
    with pytest.raises(ValueError, match="ste must be identity or abc, got 'clip'"):
        thermometer_windows(tensor(1.0), tensor(0.0), "clip")
    with pytest.raises(ValueError, match="need the edges of their windows"):
        activation_windows(tensor(1.0), tensor(1.0), tensor(0.0), 1, "thermometer")


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
    dx, dscale, dshift = activation_adjoint(grad, x, tensor(2.0), tensor(0.25), 1, "thermometer", "abc")
    assert torch.equal(dx, tensor(0, 4, 6, 8, 10, 0))
    assert torch.equal(dscale, tensor(-1 - 2 - 3 + 4 + 5 + 6))
    assert torch.equal(dshift, tensor(2.0 * (2 + 3 + 4 + 5)))


def test_nan_takes_no_gradient():
    x, grad = tensor(torch.nan, 0.25), tensor(1, 1)
    dx, dscale, dshift = activation_adjoint(grad, x, tensor(1.0), tensor(0.0), 1, "coded")
    assert torch.equal(dx, tensor(0, 1))
    torch.testing.assert_close(dscale, tensor(-0.25 * 2**-0.5))
    torch.testing.assert_close(dshift, tensor(2**-0.5))
    dx, dscale, dshift = activation_adjoint(grad, x, tensor(1.0), tensor(0.5), 1, "thermometer", "abc")
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
    edges, _ = thermometer_windows(tensor(2.0), tensor(0.25), "abc")
    window, minus = activation_windows(x, tensor(2.0), tensor(0.25), 1, "thermometer", edges)
    assert window.tolist() == [False, True, True, True, True, False, False]
    assert minus.tolist() == [True, True, True, False, False, False, True]


def test_window_adjoint_of_coded_values():
    """N = 2, rate = 1/√(4·3); inside with bit 1 and bit 0, above, below."""
    windows = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0]], dtype=torch.bool)
    dx, dscale, dshift = window_adjoint(tensor(1, 2, 4, 8), windows, tensor(0.5), 2, "coded")
    assert torch.equal(dx, tensor(1, 2, 0, 0))
    torch.testing.assert_close(dscale, tensor((0.5 * 1 - 0.5 * 2 + 3 * 4) * 12**-0.5))
    torch.testing.assert_close(dshift, tensor((4 + 8) * 12**-0.5))


@pytest.mark.parametrize("rule", ["identity", "abc"])
@pytest.mark.parametrize("bases", [1, 2, 5])
def test_window_adjoint_of_thermometer_levels_is_the_one_that_keeps_x(bases, rule):
    x, grad, scale, shift = torch.randn(150), torch.randn(150), torch.rand(bases), torch.randn(bases)
    edges, slopes = thermometer_windows(scale, shift, rule)
    windows = activation_windows(x, scale, shift, bases, "thermometer", edges)
    found = window_adjoint(grad, windows, slopes, bases, "thermometer")
    kept = activation_adjoint(grad, x, scale, shift, bases, "thermometer", rule)
    for value, wanted in zip(found, kept, strict=True):
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


@pytest.mark.parametrize("n", [1, 2])
def test_the_triangle_is_the_slope_of_the_staircase_on_average(n: int):
    """4·|⌊t⌉ - t| inside: 0 at levels, 2 at thresholds, and as much in all as the identity passes."""
    scale, shift, top = torch.tensor([0.5]), torch.tensor([-1.0]), 2**n - 1
    t = torch.linspace(-1, top + 1, 8 * (top + 2) + 1)
    x = t * 0.5 - 1
    ones = torch.ones_like(x)
    dx, dscale, dshift = activation_adjoint(ones, x, scale, shift, n, "coded", "triangle")
    inside = (t >= 0) & (t <= top)
    torch.testing.assert_close(dx, torch.where(inside, 4 * (t - t.round()).abs(), 0.0))
    plain = activation_adjoint(ones, x, scale, shift, n, "coded")
    assert torch.equal(dscale, plain[1])
    assert torch.equal(dshift, plain[2])
    steps = 1 / 8  # both sums are integrals over [0, top], by trapezoids
    assert float(dx.sum() * steps) == pytest.approx(top)
    assert float((plain[0].sum() - 1) * steps) == pytest.approx(top)
