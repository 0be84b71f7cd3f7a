"""Simulated quantization in training: values and gradients of the products on bits, in dense products."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from oracle import relative_error
from small_net import Net, gradients
from torch import Tensor, nn

import abcfx
from abcfx.layers import ABCLayer


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16)


@pytest.fixture
def quantized(images: Tensor) -> nn.Module:
    torch._dynamo.reset()
    return abcfx.calibrate(abcfx.quantize_model(Net().eval(), 2, 2), [images])


def ops_of_a_step(model: nn.Module, x: Tensor) -> set[str]:
    """Names of what a step runs, after the one that compiles."""
    gradients(model, x)
    with torch.profiler.profile() as profile:
        gradients(model, x)
    return {event.key for event in profile.key_averages()}


@pytest.mark.parametrize("then", ["aot_eager", "inductor"])
def test_simulated_gradients_equal_eager(quantized: nn.Module, images: Tensor, then: str) -> None:
    options = {"then": then, "simulate": True}
    compiled = torch.compile(quantized, backend="abc", fullgraph=True, options=options)
    got, want = gradients(compiled, images), gradients(quantized, images)
    assert got.keys() == want.keys()
    limit = 1e-4 if then == "aot_eager" else 2e-2  # a code that flips moves all gradients
    for name, grad in want.items():
        if not name.endswith("activation_scale"):  # dithered in eager mode; tests/quant/test_ste.py has the exact one
            assert relative_error(got[name], grad) <= limit, name


def test_a_simulated_step_has_no_product_on_bits(quantized: nn.Module, images: Tensor) -> None:
    compiled = torch.compile(quantized, backend="abc", options={"then": "aot_eager", "simulate": True})
    with torch.autocast("cpu", torch.bfloat16):
        ran = ops_of_a_step(compiled, images)
    assert "abc::quantize_weight" in ran
    assert not ran & {"abc::product", "abc::input_adjoint", "abc::weight_adjoint"}


def test_layers_that_cannot_be_simulated_keep_their_products(images: Tensor) -> None:
    torch._dynamo.reset()
    q = abcfx.calibrate(abcfx.quantize_model(Net().eval(), grad_bases=4), [images])
    compiled = torch.compile(q, backend="abc", options={"then": "aot_eager", "simulate": True})
    assert "abc::product" in ops_of_a_step(compiled, images)


@torch._dynamo.config.patch(error_on_recompile=True)
def test_simulated_training_with_a_dynamic_batch_takes_one_graph(quantized: nn.Module) -> None:
    compiled = torch.compile(quantized, backend="abc", fullgraph=True, dynamic=True, options={"simulate": True})
    for batch in (4, 7, 2):
        gradients(compiled, torch.randn(batch, 3, 16, 12))


def by_the_formula(layer: ABCLayer, op: Callable, x: Tensor, weight: Tensor, bias: Tensor, *geometry: Any) -> Tensor:
    """What a layer of ste="triangle" is: the float op on x̂ and Ŵ, with the slopes of ste.py for x̂ and 1 for Ŵ."""
    x_hat = torch.ops.abc.fake_quantize(x, layer.activation_scale, layer.activation_shift, 1, "triangle")
    exact = torch.ops.abc.quantize_weight(weight.detach(), False, 1, 1, "alternating", True)
    w_hat = weight + (exact - weight).detach()
    y = torch.ops.aten.convolution(x_hat, w_hat, bias, *geometry) if geometry else F.linear(x_hat, w_hat, bias)
    return layer.correct(y)


@pytest.mark.parametrize("then", ["aot_eager", "inductor"])
def test_the_triangle_rule_is_simulated(images: Tensor, then: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    q = abcfx.calibrate(abcfx.quantize_model(Net().eval(), 1, 1, ste="triangle"), [images])
    compiled = torch.compile(q, backend="abc", fullgraph=True, options={"then": then, "simulate": True})
    got = gradients(compiled, images)
    monkeypatch.setattr(ABCLayer, "run_op", by_the_formula)
    want = gradients(q, images)
    assert got.keys() == want.keys()
    limit = 1e-4 if then == "aot_eager" else 2e-2  # a code that flips moves all gradients
    for name, grad in want.items():
        assert relative_error(got[name], grad) <= limit, name


def test_the_slope_of_the_triangle(images: Tensor) -> None:
    q = abcfx.calibrate(abcfx.quantize_model(Net().eval(), 1, 1, ste="triangle"), [images])
    layer = q.body
    x = torch.relu(q.norm(q.stem(images))).detach().requires_grad_()
    hat = torch.ops.abc.fake_quantize(x, layer.activation_scale, layer.activation_shift, 1, "triangle")
    hat.sum().backward()
    t = (x.detach() - layer.activation_shift) / layer.activation_scale
    torch.testing.assert_close(x.grad, torch.where((t >= 0) & (t <= 1), 4 * (t.round() - t).abs(), 0.0))


def test_the_triangle_rule_has_no_bits(images: Tensor) -> None:
    q = abcfx.calibrate(abcfx.quantize_model(Net().eval(), 1, 1, ste="triangle"), [images])
    with pytest.raises(ValueError, match=r"(body|down|hidden): ste='triangle' is a rule of simulated training"):
        gradients(q, images)
    with pytest.raises(ValueError, match="a rule of coded levels, got levels='thermometer'"):
        abcfx.quantize_model(Net(), 1, 1, levels="thermometer", ste="triangle")
