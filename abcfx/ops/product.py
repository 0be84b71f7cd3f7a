"""abc::product: the forward product of a quantized layer, from the bit planes that `save_activation` made of its input.

    y = Â·Ŵᵀ + bias        y = conv(Â, Ŵ) + bias

The forward pass of a training step is `save_activation`, then this. Where only bits are kept for the backward pass, the
output can be had again from them at the price of one product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abcfx.ops.choose import choose
from abcfx.ops.convolution import aten_convolution, convolve_planes
from abcfx.ops.linear import multiply_planes
from abcfx.ops.saved_activation import in_memory_format, layout_of, unpack_activation
from abcfx.ops.schema import ABC, GEOMETRY_ARGUMENTS, PLAN_ARGUMENTS, Geometry
from abcfx.ops.weight_cache import WeightRecipe, dequantized, packed
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan

ABC.define(
    "product(Tensor planes, Tensor weight, Tensor? bias, Tensor scale, Tensor shift, SymInt[] input_size, "
    f"bool channels_last, ScalarType dtype, {GEOMETRY_ARGUMENTS}, {PLAN_ARGUMENTS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "product", "CompositeExplicitAutograd")
def product(
    planes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    *arguments: Any,
) -> Tensor:
    """planes → y in `dtype`, in the memory format of the input."""
    geometry, plan = Geometry(*arguments[:6]), LayerPlan.of_arguments(*arguments[6:])
    recipe = recipe_of(plan, geometry)
    form = _form(planes, weight, input_size, channels_last, dtype, geometry, plan)
    if form == "dense":
        compute = torch.promote_types(dtype, torch.float32)
        x = unpack_activation(planes, scale, shift, weight.shape, input_size, channels_last, geometry, plan.levels)
        w_hat, bias = dequantized(weight, recipe).to(compute), None if bias is None else bias.to(compute)
        x = x.to(compute)
        y = F.linear(x, w_hat, bias) if geometry.linear else aten_convolution(x, w_hat, bias, *geometry)
    else:
        kernel = packed(weight, recipe._replace(method=form))
        if geometry.linear:
            y = multiply_planes(planes, kernel, bias, scale, shift, plan, weight.shape[1])
            y = y.view(*input_size[:-1], weight.shape[0])
        else:
            y = convolve_planes(planes, weight, kernel, bias, scale, shift, geometry, plan)
    return in_memory_format(y.to(dtype), channels_last)


def recipe_of(plan: LayerPlan, geometry: Geometry) -> WeightRecipe:
    return WeightRecipe(plan.weight_bases, plan.basis, plan.per_channel, geometry.transposed, geometry.groups)


def _form(
    planes: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    geometry: Geometry,
    plan: LayerPlan,
) -> str:
    if "output" not in plan.binary or layout_of(weight.shape, geometry) == "flat":
        return "dense"
    if geometry.linear:
        workload = Workload.linear(weight.shape, dtype, input_size)
    else:
        workload = Workload.convolution(weight.shape, dtype, input_size, tuple(geometry), channels_last=channels_last)
    return choose(workload, plan, planes.device).form


@torch.library.register_fake("abc::product", lib=ABC)
def _fake(
    planes: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    *arguments: Any,
) -> Tensor:
    geometry = Geometry(*arguments[:6])
    if geometry.linear:
        return weight.new_empty([*input_size[:-1], weight.shape[0]], dtype=dtype)
    input = weight.new_empty(list(input_size), dtype=dtype)
    return in_memory_format(aten_convolution(input, weight.to(dtype), None, *geometry), channels_last)
