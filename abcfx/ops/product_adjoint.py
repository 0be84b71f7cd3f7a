"""abc::input_adjoint, abc::weight_adjoint: the two backward products of a quantized layer.

    dx̂ = adjoint of y = product(x̂, Ŵ) in x̂ at Ŵ = Σ_p α_p B_p          dŴ = adjoint in Ŵ at x̂ = Σ_q β_q A_q + c

Without a `seed` each is the float product on the dequantized operands. With one, the gradient of y is first rounded
stochastically to `grad_bases` bit planes, without bias, and the product is one of bits where there is such a kernel
(abcfx/ops/gradients.py), else a float one. What a gradient is rounded to depends on the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from abcfx.ops import gradients
from abcfx.ops.product import recipe_of
from abcfx.ops.saved_activation import in_memory_format, unpack_activation
from abcfx.ops.schema import ABC, GEOMETRY_ARGUMENTS, PLAN_ARGUMENTS, Geometry
from abcfx.ops.weight_cache import dequantized, fitted
from abcfx.plan import LayerPlan

ABC.define(
    "input_adjoint(Tensor grad, Tensor weight, SymInt[] input_size, bool channels_last, ScalarType dtype, "
    f"Tensor? seed, {GEOMETRY_ARGUMENTS}, {PLAN_ARGUMENTS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
ABC.define(
    "weight_adjoint(Tensor grad, Tensor planes, Tensor scale, Tensor shift, SymInt[] weight_size, SymInt[] input_size, "
    f"bool channels_last, ScalarType dtype, Tensor? seed, {GEOMETRY_ARGUMENTS}, {PLAN_ARGUMENTS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "input_adjoint", "CompositeExplicitAutograd")
def input_adjoint(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    seed: Tensor | None,
    *arguments: Any,
) -> Tensor:
    """dx̂ in `dtype` (at least f32), of the size and memory format of the input."""
    geometry, plan = Geometry(*arguments[:6]), LayerPlan.of_arguments(*arguments[6:])
    recipe = recipe_of(plan, geometry)
    if seed is not None and gradients.reason_against(geometry, "input") is None:
        bases, alpha, shape = fitted(weight, recipe)
        dx = gradients.input_grad_on_planes(
            grad.float(), bases.view(plan.weight_bases, *shape), alpha, plan.grad_bases, seed, geometry, input_size,
            weight.shape,
        )  # fmt: skip
        return in_memory_format(dx.to(dtype), channels_last)
    w_hat, grad = dequantized(weight, recipe).to(dtype), _rounded(grad.to(dtype), plan, seed)
    if geometry.linear:
        return (grad.reshape(-1, grad.shape[-1]) @ w_hat).view(list(input_size))
    like = in_memory_format(torch.empty(1, dtype=dtype, device=grad.device).expand(*input_size), False)
    dx, _, _ = torch.ops.aten.convolution_backward(grad, like, w_hat, None, *geometry, [True, False, False])
    return in_memory_format(dx, channels_last)


@torch.library.impl(ABC, "weight_adjoint", "CompositeExplicitAutograd")
def weight_adjoint(
    grad: Tensor,
    planes: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight_size: Sequence[int],
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    seed: Tensor | None,
    *arguments: Any,
) -> Tensor:
    """dŴ in `dtype` (at least f32), contiguous."""
    geometry, plan = Geometry(*arguments[:6]), LayerPlan.of_arguments(*arguments[6:])
    if seed is not None and gradients.reason_against(geometry, "weight") is None:
        dw = gradients.weight_grad_on_planes(
            grad.float(), planes, scale.float(), shift.float(), plan.levels, plan.grad_bases, seed, geometry, weight_size
        )
        return dw.to(dtype).contiguous()
    x = unpack_activation(planes, scale, shift, weight_size, input_size, channels_last, geometry, plan.levels).to(dtype)
    grad = _rounded(grad.to(dtype), plan, seed)
    if geometry.linear:
        return grad.reshape(-1, grad.shape[-1]).t() @ x.view(-1, x.shape[-1])
    like = torch.empty(1, dtype=dtype, device=grad.device).expand(*weight_size)
    _, dw, _ = torch.ops.aten.convolution_backward(grad, x, like, None, *geometry, [False, True, False])
    return dw.contiguous()


def _rounded(grad: Tensor, plan: LayerPlan, seed: Tensor | None) -> Tensor:
    """The float product of a layer whose gradient is quantized, but whose product has no binary form."""
    return grad if seed is None else gradients.rounded(grad, plan.grad_bases, seed)


@torch.library.register_fake("abc::input_adjoint", lib=ABC)
def _(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    seed: Tensor | None,
    *_: Any,
) -> Tensor:
    return in_memory_format(grad.new_empty(list(input_size), dtype=dtype), channels_last)


@torch.library.register_fake("abc::weight_adjoint", lib=ABC)
def _(
    grad: Tensor,
    planes: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight_size: Sequence[int],
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    *_: Any,
) -> Tensor:
    return grad.new_empty(list(weight_size), dtype=dtype)
