"""The adjoint of every differentiable `abc::` op, one row each: from the gradient of its output, one for each argument.

At this level an op still means mathematics, y = product(x̂, Ŵ) + bias, and so does its adjoint:

    dx̂ = input_adjoint(dy, W)        dŴ = weight_adjoint(dy, planes)        db = Σ dy
    (dx, dscale, dshift) = activation_adjoint(dx̂, windows)                  dW = straight-through(dŴ)

`planes` and `windows` are bits that the forward pass left (abcfx/ops/saved_activation.py); the straight-through rules
are those of abcfx/quant/ste.py. The same rows serve eager mode, torch.func and compiled training: AOTAutograd makes the
backward graph by running them on the fake tensors of the forward graph. passes/save_bits.py marks what is kept between.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.fx import GraphModule

import abcfx.ops  # noqa: F401  defines torch.ops.abc
from abcfx.graph import with_bodies
from abcfx.ops.autograd import differentiable, not_twice
from abcfx.ops.convolution import check_convolution
from abcfx.ops.linear import check_linear
from abcfx.ops.product import recipe_of
from abcfx.ops.saved_activation import in_memory_format, is_channels_last
from abcfx.ops.schema import LINEAR, Geometry
from abcfx.ops.weight_cache import WeightRecipe
from abcfx.plan import LayerPlan
from abcfx.quant import activations, ste

abc, aten = torch.ops.abc, torch.ops.aten
ONCE = ("input_adjoint", "weight_adjoint", "activation_adjoint")


class Layer(NamedTuple):
    """What the adjoint of a layer needs to know, beside tensors. dtype: that of the input; compute: at least f32."""

    geometry: Geometry
    plan: LayerPlan
    input_size: Sequence[int]
    channels_last: bool
    dtype: torch.dtype
    compute: torch.dtype
    dtypes: tuple[torch.dtype | None, ...]  # of weight, bias, scale, shift
    weight_size: Sequence[int]

    @classmethod
    def of(cls, arguments: tuple, geometry: Geometry, plan: LayerPlan) -> Layer:
        input, weight, bias, scale, shift = arguments[:5]
        dtypes = tuple(None if t is None else t.dtype for t in (weight, bias, scale, shift))
        compute = torch.promote_types(input.dtype, torch.float32)
        size, last = list(input.shape), is_channels_last(input)
        return cls(geometry, plan, size, last, input.dtype, compute, dtypes, list(weight.shape))


def linear_facts(*arguments: Any) -> Layer:
    return Layer.of(arguments, LINEAR, LayerPlan.of_arguments(*arguments[5:]))


def convolution_facts(*arguments: Any) -> Layer:
    return Layer.of(arguments, Geometry(*arguments[5:11]), LayerPlan.of_arguments(*arguments[11:]))


def forward_of(facts: Callable[..., Layer]) -> Callable[..., tuple[Tensor, ...]]:
    """The forward pass of a layer that is to be differentiated: bits of its input, then the product from them."""

    def forward(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
        input, weight, bias, scale, shift = arguments[:5]
        layer = facts(*arguments)
        geometry, plan = layer.geometry, layer.plan
        if geometry.linear:
            check_linear(input, weight)
        else:
            check_convolution(input, weight, geometry.transposed, geometry.groups)
        planes, windows = abc.save_activation(
            input, scale, shift, layer.weight_size, *geometry, plan.activation_bases, plan.levels, plan.ste
        )
        y = abc.product(
            planes, weight, bias, scale, shift, layer.input_size, layer.channels_last, layer.dtype, *geometry,
            *plan.op_arguments(),
        )  # fmt: skip
        return y, planes, windows

    return forward


def layer_adjoint(
    dy: Tensor, layer: Layer, needs: Sequence[bool], planes: Tensor, windows: Tensor, *kept: Tensor
) -> tuple:
    """(dx, dW, db, dscale, dshift) of abc::linear and abc::convolution."""
    weight, scale, shift = kept
    geometry, plan = layer.geometry, layer.plan
    need_x, need_w, need_b, need_scale, need_shift = needs[:5]
    # each product rounds on its own: the same numbers in both would make their errors go together
    seeds = torch.randint(2**31 - 1, (2,), device=dy.device) if plan.grad_bases else None
    where = layer.input_size, layer.channels_last, layer.compute
    dx = dw = db = dscale = dshift = None
    if need_x or need_scale or need_shift:
        rounding = seeds[:1] if seeds is not None and "grad_input" in plan.binary else None
        dx_hat = abc.input_adjoint(dy, weight, *where, rounding, *geometry, *plan.op_arguments())
        dx, dscale, dshift = abc.activation_adjoint(
            dx_hat, windows, scale, shift, plan.activation_bases, plan.levels, plan.ste
        )
        dx, dscale, dshift = dx.to(layer.dtype), dscale.to(layer.dtypes[2]), dshift.to(layer.dtypes[3])
    if need_w:
        rounding = seeds[1:] if seeds is not None and "grad_weight" in plan.binary else None
        dw_hat = abc.weight_adjoint(
            dy, planes, scale, shift, layer.weight_size, *where, rounding, *geometry, *plan.op_arguments()
        )
        dw = weight_adjoint(dw_hat, weight, recipe_of(plan, geometry), plan.ste)
    if need_b and layer.dtypes[1] is not None:
        channels = dy.dim() - 1 if geometry.linear else 1
        others = [dim for dim in range(dy.dim()) if dim != channels]
        db = dy.to(layer.compute).sum(others).to(layer.dtypes[1])
    return dx, dw, db, dscale, dshift, *([None] * (len(needs) - 5))


def weight_adjoint(dw_hat: Tensor, weight: Tensor, recipe: WeightRecipe, rule: str) -> Tensor:
    """dW from dŴ by the straight-through rule `rule` of abcfx/quant/ste.py."""
    if rule != "abc":
        return dw_hat.to(weight.dtype)
    where = recipe.transposed, recipe.groups
    scales = abc.weight_scales(weight, *where, recipe.weight_bases, recipe.basis, recipe.per_channel)
    return ste.weight_adjoint(dw_hat, scales, *where).to(weight.dtype)


class Quantizer(NamedTuple):
    rest: tuple[int | str, ...]  # bases, levels, straight-through rule
    channels_last: bool
    dtypes: tuple[torch.dtype, ...]


def quantize_activation(*arguments: Any) -> tuple[Tensor, Tensor]:
    windows = abc.activation_windows(*arguments)
    return abc.quantize_activation(*arguments), windows


def quantize_activation_facts(input: Tensor, scale: Tensor, shift: Tensor, *rest: int | str) -> Quantizer:
    return Quantizer(rest, is_channels_last(input), (input.dtype, scale.dtype, shift.dtype))


def quantize_activation_adjoint(
    dy: Tensor, facts: Quantizer, needs: Sequence[bool], windows: Tensor, scale: Tensor, shift: Tensor
) -> tuple:
    dy = in_memory_format(dy, facts.channels_last)
    gradients = abc.activation_adjoint(dy, windows, scale, shift, *facts.rest)
    return *(g.to(dtype) for g, dtype in zip(gradients, facts.dtypes, strict=True)), *([None] * (len(needs) - 3))


class Fake(NamedTuple):
    activation_bases: int
    rule: str
    dtypes: tuple[torch.dtype, ...]


def fake_quantize(
    input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, ste: str = "identity"
) -> tuple[Tensor]:
    """Written out, so that a compiler sees through it."""
    return (activations.quantize(input, scale, shift, activation_bases, "coded"),)


def fake_quantize_adjoint(
    dy: Tensor, facts: Fake, needs: Sequence[bool], x: Tensor, scale: Tensor, shift: Tensor
) -> tuple:
    gradients = ste.activation_adjoint(dy, x, scale, shift, facts.activation_bases, "coded", facts.rule)
    return *(g.to(dtype) for g, dtype in zip(gradients, facts.dtypes, strict=True)), *([None] * (len(needs) - 3))


def quantize_weight_adjoint(dw_hat: Tensor, dtype: torch.dtype, needs: Sequence[bool]) -> tuple:
    """∂Ŵ/∂W = 1."""
    return dw_hat.to(dtype), None, None, None, None, None


# op → (forward pass with the bits it keeps, plain facts, positions of the arguments kept, adjoint)
ADJOINT: dict[str, tuple[Callable, Callable, tuple[int, ...], Callable]] = {
    "linear": (forward_of(linear_facts), linear_facts, (1, 3, 4), layer_adjoint),
    "convolution": (forward_of(convolution_facts), convolution_facts, (1, 3, 4), layer_adjoint),
    "quantize_activation": (quantize_activation, quantize_activation_facts, (1, 2), quantize_activation_adjoint),
    "fake_quantize": (
        fake_quantize,
        lambda input, scale, shift, n, rule="identity": Fake(n, rule, (input.dtype, scale.dtype, shift.dtype)),
        (0, 1, 2),
        fake_quantize_adjoint,
    ),
    "quantize_weight": (
        lambda *arguments: (abc.quantize_weight(*arguments),),
        lambda weight, *_: weight.dtype,
        (),
        quantize_weight_adjoint,
    ),
}


def require_adjoints(gm: GraphModule) -> None:
    """NotImplementedError naming the node of a training graph whose abc op has no row."""
    for part in with_bodies(gm):
        for node in part.graph.nodes:
            if getattr(node.target, "namespace", None) == "abc" and node.target._opname not in ADJOINT:
                raise NotImplementedError(f"{node.name}: {node.target} has no row in passes/adjoint.py")


for _name, _row in ADJOINT.items():
    differentiable(_name, *_row)
for _name in ONCE:
    not_twice(_name)
