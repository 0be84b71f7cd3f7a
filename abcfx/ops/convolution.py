"""abc::convolution:  y = conv(Â, Ŵ) + bias in one, two or three dimensions, plain or transposed, grouped or not.

input  f[n, c, *space]    weight  f[o, c/groups, *kernel] ([c, o/groups, *kernel] if transposed), the live float weight
→      f[n, o, *space']   in the dtype and memory format of the input

Equals aten.convolution on the dequantized operands; zero padding contributes exactly zero (docs/bits.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from abcfx.ops.choose import choose
from abcfx.ops.schema import ABC, GEOMETRY_ARGUMENTS, PLAN_ARGUMENTS
from abcfx.ops.weight_cache import PackedWeight, WeightRecipe, dequantized, packed
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan
from abcfx.quant import activations

ABC.define(
    "convolution(Tensor input, Tensor weight, Tensor? bias, Tensor scale, Tensor shift, "
    f"{GEOMETRY_ARGUMENTS}, {PLAN_ARGUMENTS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
aten_convolution = torch.ops.aten.convolution.default


@torch.library.impl(ABC, "convolution", "CompositeExplicitAutograd")
def convolution(
    input: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *arguments: Any
) -> Tensor:
    geometry, plan = arguments[:6], LayerPlan.of_arguments(*arguments[6:])
    transposed, groups = geometry[3], geometry[5]
    check_convolution(input, weight, transposed, groups)
    recipe = WeightRecipe(plan.weight_bases, plan.basis, plan.per_channel, transposed, groups)
    last = suggest_memory_format(input) == torch.channels_last
    workload = Workload.convolution(weight.shape, input.dtype, input.shape, geometry, channels_last=last)
    form = choose(workload, plan, input.device).form if "output" in plan.binary else "dense"
    if form == "dense":
        return dense(input, weight, bias, scale, shift, geometry, plan, recipe)
    return on_planes(input, weight, packed(weight, recipe._replace(method=form)), bias, scale, shift, geometry, plan)


def dense(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    geometry: tuple,
    plan: LayerPlan,
    recipe: WeightRecipe,
) -> Tensor:
    """The layer as one float op on dequantized operands."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    quantized = activations.quantize(input.to(dtype), scale, shift, plan.activation_bases, plan.levels)
    bias = None if bias is None else bias.to(dtype)
    out = aten_convolution(quantized, dequantized(weight, recipe).to(dtype), bias, *geometry)
    return in_layout_of(out.to(input.dtype), input)


def on_planes(
    input: Tensor,
    weight: Tensor,
    kernel: PackedWeight,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    geometry: tuple,
    plan: LayerPlan,
) -> Tensor:
    """The layer on the kernels: pack the input, then one product."""
    padding, groups = two_dims(geometry[1], 0), geometry[5]
    planes = torch.ops.abc_k.pack_image(
        image_of(input), scale.float(), shift.float(), plan.activation_bases, plan.levels, groups, padding
    )
    out = convolve_planes(planes, weight, kernel, bias, scale, shift, geometry, plan)
    return in_layout_of(out.to(input.dtype), input)


def in_layout_of(out: Tensor, input: Tensor) -> Tensor:
    """Channels last in memory if the input is, else contiguous: as the float op does, so that `view` keeps working."""
    return out.contiguous(memory_format=suggest_memory_format(input))


def image_of(tensor: Tensor) -> Tensor:
    """The image of one line that a 1-d convolution sees."""
    return tensor.unsqueeze(2) if tensor.dim() == 3 else tensor


def two_dims(values: Sequence[int], fill: int) -> list[int]:
    """A 1-d convolution is a 2-d one over an image of one line."""
    return [fill, *values] if len(values) == 1 else list(values)


def convolve_planes(
    planes: Tensor,
    weight: Tensor,
    kernel: PackedWeight,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    geometry: Sequence,
    plan: LayerPlan,
) -> Tensor:
    """A padded bit image → f32[n, o, *space], channels last in memory."""
    stride, padding, dilation, _transposed, _output_padding, groups = geometry
    out = torch.ops.abc_k.conv2d(
        planes,
        *kernel,
        None if bias is None else bias.float(),
        scale.float(),
        shift.float(),
        plan.levels,
        weight.shape[1],
        two_dims(weight.shape[2:], 1),
        two_dims(stride, 1),
        two_dims(padding, 0),
        two_dims(dilation, 1),
        groups,
    )
    out = out.permute(0, 3, 1, 2)
    return out.squeeze(2) if weight.dim() == 3 else out


def check_convolution(input: Tensor, weight: Tensor, transposed: bool, groups: int) -> None:
    if input.dim() != weight.dim():
        raise ValueError(
            f"abc::convolution got an input of shape {list(input.shape)}; its weight {list(weight.shape)} needs "
            f"{weight.dim()} dimensions [batch, channels, ...]"
        )
    channels = weight.shape[0] if transposed else weight.shape[1] * groups
    if input.shape[1] != channels:
        raise ValueError(
            f"abc::convolution got an input of shape {list(input.shape)}; its weight {list(weight.shape)} with "
            f"groups={groups} needs {channels} channels"
        )
    if not input.dtype.is_floating_point:
        raise ValueError(f"abc::convolution needs a floating-point input, got {input.dtype}")


@torch.library.register_fake("abc::convolution", lib=ABC)
def _fake(input: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *arguments: Any) -> Tensor:
    geometry = arguments[:6]
    check_convolution(input, weight, geometry[3], geometry[5])
    shape = aten_convolution(input, weight.to(input.dtype), None, *geometry).shape
    return torch.empty(shape, dtype=input.dtype, device=input.device, memory_format=suggest_memory_format(input))
