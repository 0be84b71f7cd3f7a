"""The public abc:: ops: their adjoints, and what they keep of a weight."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import TOLERANCE, relative_error
from torch import Tensor

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import weight_cache
from abcfx.quant import ste
from abcfx.quant.activations import fit

abc = torch.ops.abc
PLANS = [(2, 2, "alternating", "coded", True), (3, 2, "greedy", "thermometer", False), (2, 3, "abc", "coded", False)]
IDS = ["alternating-coded", "greedy-thermometer", "abc-coded"]
LINEAR = ((5, 70), (8, 70))
# input, weight, (stride, padding, dilation, transposed, output_padding, groups)
CONVOLUTIONS = {
    "conv1d": ((2, 32, 9), (6, 32, 3), ([1], [1], [1], False, [0], 1)),
    "conv2d": ((2, 32, 7, 6), (6, 32, 3, 3), ([2, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    "conv2d_grouped": ((2, 32, 7, 6), (6, 16, 3, 3), ([1, 1], [0, 2], [2, 1], False, [0, 0], 2)),
    "conv2d_dense": ((2, 4, 7, 6), (6, 4, 3, 3), ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)),
    "conv3d": ((1, 16, 4, 5, 6), (4, 16, 2, 2, 2), ([1, 1, 1], [0, 0, 0], [1, 1, 1], False, [0, 0, 0], 1)),
    "conv_transpose2d": ((2, 8, 5, 5), (8, 3, 3, 3), ([2, 2], [1, 1], [1, 1], True, [1, 1], 2)),
}


def operands(shape: tuple[int, ...], weight: tuple[int, ...], outputs: int, plan: tuple) -> tuple[Tensor, ...]:
    x = torch.randn(shape)
    scale, shift = fit(x.flatten(), plan[1], plan[3])
    tensors = (x, torch.randn(weight), torch.randn(outputs), scale, shift)
    return tuple(t.clone().requires_grad_() for t in tensors)


def gradients(run: Any, tensors: tuple[Tensor, ...], grad: Tensor) -> list[Tensor]:
    out = run(*tensors)
    return list(torch.autograd.grad(out, tensors, grad))


class Quantize(torch.autograd.Function):
    """The straight-through rule of ste.py around the reference quantizer: the adjoint the ops must have."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, planes: int, levels: str, rule: str = "identity"
    ) -> Tensor:
        ctx.save_for_backward(x, scale, shift)
        ctx.rest = planes, levels, rule
        return abc.quantize_activation(x, scale, shift, planes, levels)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        x, scale, shift = ctx.saved_tensors
        planes, levels, rule = ctx.rest
        edges, slopes = ste.thermometer_windows(scale, shift, rule) if levels == "thermometer" else (None, scale)
        windows = ste.activation_windows(x.flatten(), scale, shift, planes, levels, edges)
        dx, dscale, dshift = ste.window_adjoint(grad.flatten(), windows, slopes, planes, levels)
        return dx.view(x.shape), dscale, dshift, None, None, None


def straight_through_weight(weight: Tensor, quantized: Tensor) -> Tensor:
    """Ŵ forward, identity backward."""
    return weight + (quantized - weight).detach()


@pytest.mark.parametrize("plan", PLANS, ids=IDS)
def test_linear_adjoint(plan: tuple) -> None:
    tensors = operands(*LINEAR, 8, plan)
    grad = torch.randn(5, 8)

    def reference(x: Tensor, w: Tensor, b: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        w_hat = straight_through_weight(w, abc.quantize_weight(w, False, 1, plan[0], plan[2], plan[4]))
        return F.linear(Quantize.apply(x, scale, shift, plan[1], plan[3]), w_hat, b)

    got = gradients(lambda *t: abc.linear(*t, *plan), tensors, grad)
    for a, b in zip(got, gradients(reference, tensors, grad), strict=True):
        assert relative_error(a, b) <= (TOLERANCE if b.numel() > 1 else 10 * TOLERANCE)  # one sum, that may cancel


@pytest.mark.parametrize("plan", PLANS, ids=IDS)
@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_adjoint(case: tuple, plan: tuple) -> None:
    shape, weight, geometry = case
    transposed, groups = geometry[3], geometry[5]
    tensors = operands(shape, weight, weight[1] * groups if transposed else weight[0], plan)

    def reference(x: Tensor, w: Tensor, b: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        w_hat = straight_through_weight(w, abc.quantize_weight(w, transposed, groups, plan[0], plan[2], plan[4]))
        return torch.ops.aten.convolution(Quantize.apply(x, scale, shift, plan[1], plan[3]), w_hat, b, *geometry)

    grad = torch.randn_like(reference(*tensors))
    got = gradients(lambda *t: abc.convolution(*t, *geometry, *plan), tensors, grad)
    for a, b in zip(got, gradients(reference, tensors, grad), strict=True):
        assert relative_error(a, b) <= (TOLERANCE if b.numel() > 1 else 10 * TOLERANCE)  # one sum, that may cancel


@pytest.mark.parametrize("rule", ["identity", "abc"])
def test_thermometer_adjoints_follow_the_rule(rule: str) -> None:
    """Of a layer and of the quantizer alone, dx, dβ and dv by the windows of the rule."""
    x, weight, bias, scale, shift = operands(*LINEAR, 8, PLANS[1])
    grad, how = torch.randn(5, 8), (True,) * 3
    got = gradients(lambda *t: abc.linear(*t, *PLANS[1], 0, *how, rule), (x, weight, bias, scale, shift), grad)
    w_hat = abc.quantize_weight(weight.detach(), False, 1, 3, "greedy", False)
    for quantize in (Quantize.apply, abc.quantize_activation):
        want = gradients(
            lambda x, s, v, quantize=quantize: quantize(x, s, v, 2, "thermometer", rule) @ w_hat.t(),
            (x, scale, shift),
            grad,
        )
        for a, b in zip((got[0], *got[3:]), want, strict=True):
            assert relative_error(a, b) <= TOLERANCE


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("planes", [1, 3])
def test_fake_quantize_is_the_quantizer_with_the_exact_adjoint(planes: int, dtype: torch.dtype) -> None:
    x = torch.randn(40, 30).to(dtype).requires_grad_()
    scale, shift = (t.requires_grad_() for t in fit(x.detach().flatten(), planes, "coded"))
    grad = torch.randn(40, 30).to(dtype)
    out = abc.fake_quantize(x, scale, shift, planes)
    assert torch.equal(out, abc.quantize_activation(x, scale, shift, planes, "coded"))
    got = torch.autograd.grad(out, (x, scale, shift), grad)
    want = ste.activation_adjoint(grad, x.detach(), scale.detach(), shift.detach(), planes, "coded")
    for a, b in zip(got, want, strict=True):
        assert a.dtype == b.dtype
        assert torch.equal(a, b)


def test_frozen_operands_get_no_gradient() -> None:
    x, weight, bias, scale, shift = operands(*LINEAR, 8, PLANS[0])
    out = abc.linear(x.detach(), weight, bias.detach(), scale.detach(), shift.detach(), *PLANS[0])
    out.sum().backward()
    assert weight.grad is not None
    assert x.grad is bias.grad is scale.grad is None


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("plan", PLANS, ids=IDS)
def test_one_fit_serves_the_packed_and_the_dequantized_form(
    plan: tuple, groups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = torch.randn(15, 70, 3, 2)
    recipe = weight_cache.WeightRecipe(plan[0], plan[2], plan[4], groups=groups)
    want = weight_cache.dequantized(weight.clone(), recipe)
    fits = []
    original = weight_cache.fit_bases
    monkeypatch.setattr(weight_cache, "fit_bases", lambda *args: fits.append(args) or original(*args))
    weight_cache.packed(weight, recipe)
    assert torch.equal(weight_cache.dequantized(weight, recipe), want)
    assert len(fits) == 1
    weight.mul_(2)
    assert relative_error(weight_cache.dequantized(weight, recipe), 2 * want) <= TOLERANCE
    assert len(fits) == 2
