"""Every differentiable abc:: op has one row, whose gradients are those of the float product on dequantized operands."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from abcfx.passes.adjoint import ADJOINT, ONCE
from oracle import relative_error
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

import abcfx
from abcfx.quant.weights import flatten_weight

# products and bits on the way to a layer's output: integers come out of them, or a row of ADJOINT calls them
INSIDE = {"save_activation", "product", "weight_scales", "activation_windows"}


def test_every_op_has_a_row_or_may_not_be_differentiated() -> None:
    names = (name.partition("::") for name in torch._C._dispatch_get_all_op_names())
    ops = {op.split(".")[0] for space, _, op in names if space == "abc"}
    assert ops == {*ADJOINT, *ONCE, *INSIDE}


@pytest.fixture
def net() -> nn.Module:
    """Kernels and float forms: plain, grouped and strided convolutions, and a linear layer."""
    return nn.Sequential(
        nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, 2, groups=2), nn.ReLU(),
        nn.Conv2d(32, 8, 1, bias=False), nn.Flatten(), nn.Linear(72, 5),
    )  # fmt: skip


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 32, 7, 7).contiguous(memory_format=torch.channels_last)


def quantized(net: nn.Module, images: Tensor, **plan: Any) -> nn.Module:
    return abcfx.calibrate(abcfx.quantize_model(net, first_last_float=False, **plan), [images])


def gradients(model: nn.Module, images: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    model(images).square().sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_func_grad_gives_the_same(net: nn.Module, images: Tensor) -> None:
    model = quantized(net, images)
    parameters = {name: p.detach() for name, p in model.named_parameters()}
    got = grad(lambda p: functional_call(model, p, (images,)).square().sum())(parameters)
    for name, want in gradients(model, images).items():
        assert torch.equal(got[name], want), name


def test_per_sample_gradients_by_vmap_of_grad(net: nn.Module, images: Tensor) -> None:
    model = quantized(net, images)
    weight = {"6.weight": model[6].weight.detach()}

    def loss(weight: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, weight, (image.unsqueeze(0),)).square().sum()

    with pytest.warns(UserWarning, match="performance drop"):  # no batching rule: torch loops over the samples
        got = vmap(grad(loss), in_dims=(None, 0))(weight, images)["6.weight"]
    assert relative_error(got.sum(0), gradients(model, images)["6.weight"]) <= 1e-5


def test_gradients_accumulate(net: nn.Module, images: Tensor) -> None:
    model = quantized(net, images)
    want = gradients(model, images)
    model(images).square().sum().backward()
    for name, p in model.named_parameters():
        assert relative_error(p.grad, 2 * want[name]) <= 1e-6, name


def test_activation_checkpointing_gives_the_same(net: nn.Module, images: Tensor) -> None:
    model = quantized(net, images)
    want = gradients(model, images)
    model.zero_grad()
    checkpoint(model, images, use_reentrant=False).square().sum().backward()
    for name, p in model.named_parameters():
        assert torch.equal(p.grad, want[name]), name


def test_a_second_derivative_is_refused(net: nn.Module, images: Tensor) -> None:
    model, x = quantized(net, images), images.clone().requires_grad_()
    (first,) = torch.autograd.grad(model(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"abc::\w+_adjoint\) cannot be differentiated again"):
        first.square().sum().backward()


def test_only_bits_are_kept(images: Tensor) -> None:
    """N planes and two window bits a value, of a layer of 64 channels without padding; nothing of the output."""
    model = quantized(nn.Sequential(nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3)), images.repeat(1, 2, 1, 1), M=2, N=2)
    kept: list[Tensor] = []
    x = torch.randn(2, 64, 9, 9, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model[0](x)
    bits = 8 * sum(t.numel() * t.element_size() for t in kept if not t.is_floating_point())
    floats = {id(t): t.numel() for t in kept if t.is_floating_point()}
    # the live weight, the two levels and the output correction are no activations
    assert sum(floats.values()) <= model[0].weight.numel() + 2 + 64 + 2 * 64 * 7 * 7
    assert bits == pytest.approx((2 + 2) * x.numel(), rel=0.01)


def test_the_rule_of_the_paper_scales_by_the_squared_scales(net: nn.Module, images: Tensor) -> None:
    identity, paper = quantized(net, images), quantized(net, images, ste="abc")
    alpha = torch.ops.abc.weight_scales(net[0].weight, False, 1, 2, "alternating", True)
    want = flatten_weight(gradients(identity, images)["0.weight"]) * alpha.square().sum(0).view(-1, 1, 1)
    assert relative_error(flatten_weight(gradients(paper, images)["0.weight"]), want) <= 1e-5


@pytest.mark.parametrize("switch", ["output", "grad_input", "grad_weight"])
def test_each_product_has_its_switch(switch: str, net: nn.Module, images: Tensor) -> None:
    """With float gradients nothing changes; with rounded ones only the product that is switched on does."""
    want = gradients(quantized(net, images), images)
    model = quantized(net, images, binary=switch, grad_bases=4)
    got = gradients(model, images)
    changed = {name for name, value in got.items() if relative_error(value, want[name]) > 1e-4}
    assert all(torch.isfinite(value).all() for value in got.values())
    if switch == "output":
        assert not changed
    elif switch == "grad_weight":  # the gradients that flow on are exact
        assert changed == {name for name in want if name.endswith(".weight")}
    else:
        assert "6.weight" not in changed
        assert "0.weight" in changed


def test_rounded_gradients_repeat_with_the_seed(net: nn.Module, images: Tensor) -> None:
    model = quantized(net, images, grad_bases=3)
    runs = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        runs.append(gradients(model, images)["0.weight"])
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


def test_rounded_gradients_are_unbiased(net: nn.Module, images: Tensor) -> None:
    """The mean over R roundings is as far from the exact gradient as its own spread s/√R says, up to four times:
    few of its values are independent, since a batch of three images has rank three."""
    exact = gradients(quantized(net, images), images)
    model = quantized(net, images, grad_bases=4)
    runs = [gradients(model, images) for _ in range(30)]
    for name, want in exact.items():
        values = torch.stack([run[name] for run in runs]).double()
        spread = values.var(0).sum().div(len(runs)).sqrt()
        assert (values.mean(0) - want).norm() <= 4 * spread + 1e-5 * want.norm(), name
        if "activation" not in name and "6." not in name:
            assert spread > 0, name
