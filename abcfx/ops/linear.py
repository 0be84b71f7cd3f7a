"""abc::linear:  y = Â·Ŵᵀ + bias,  Â = Σ_q β_q A_q + c,  Ŵ = Σ_p α_p B_p.

input  f[..., k]    weight  f[o, k], the live float weight    bias  f[o] or None    scale, shift: docs/levels.md
→      f[..., o]    in the dtype of the input

Equals F.linear on the dequantized operands. Where a kernel exists and pays, the product runs on bit planes.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from abcfx.ops.choose import choose
from abcfx.ops.schema import ABC, PLAN_ARGUMENTS
from abcfx.ops.weight_cache import PackedWeight, WeightRecipe, dequantized, packed
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan
from abcfx.quant import activations

ABC.define(
    f"linear(Tensor input, Tensor weight, Tensor? bias, Tensor scale, Tensor shift, {PLAN_ARGUMENTS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "linear", "CompositeExplicitAutograd")
def linear(
    input: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *plan_arguments: Any
) -> Tensor:
    check_linear(input, weight)
    plan = LayerPlan.of_arguments(*plan_arguments)
    recipe = WeightRecipe(plan.weight_bases, plan.basis, plan.per_channel)
    workload = Workload.linear(weight.shape, input.dtype, input.shape)
    form = choose(workload, plan, input.device).form if "output" in plan.binary else "dense"
    if form == "dense":
        return dense(input, weight, bias, scale, shift, plan, recipe)
    return on_planes(input, weight, packed(weight, recipe._replace(method=form)), bias, scale, shift, plan)


def on_planes(
    input: Tensor,
    weight: Tensor,
    kernel: PackedWeight,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    plan: LayerPlan,
) -> Tensor:
    """The layer on the kernels: pack the input, then one product."""
    bits = torch.ops.abc_k.pack_rows(
        input.reshape(-1, input.shape[-1]), scale.float(), shift.float(), plan.activation_bases, plan.levels
    )
    out = multiply_planes(bits, kernel, bias, scale, shift, plan, input.shape[-1])
    return out.view(*input.shape[:-1], weight.shape[0]).to(input.dtype)


def multiply_planes(
    planes: Tensor,
    kernel: PackedWeight,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    plan: LayerPlan,
    depth: int,
) -> Tensor:
    """planes i64[N, rows, words] → f32[rows, o]."""
    bias = None if bias is None else bias.float()
    return torch.ops.abc_k.linear(planes, *kernel, bias, scale.float(), shift.float(), plan.levels, depth)


def dense(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    plan: LayerPlan,
    recipe: WeightRecipe,
) -> Tensor:
    """The layer as one float op on dequantized operands."""
    dtype = torch.promote_types(input.dtype, torch.float32)
    quantized = activations.quantize(input.to(dtype), scale, shift, plan.activation_bases, plan.levels)
    out = F.linear(quantized, dequantized(weight, recipe).to(dtype), None if bias is None else bias.to(dtype))
    return out.to(input.dtype)


def check_linear(input: Tensor, weight: Tensor) -> None:
    if weight.dim() != 2:
        raise ValueError(f"abc::linear needs a weight [out, in], got {list(weight.shape)}")
    if input.dim() == 0 or input.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"abc::linear got an input of shape {list(input.shape)}; its weight {list(weight.shape)} needs "
            f"{weight.shape[1]} values in the last dimension"
        )
    if not input.dtype.is_floating_point:
        raise ValueError(f"abc::linear needs a floating-point input, got {input.dtype}")


@torch.library.register_fake("abc::linear", lib=ABC)
def _fake(input: Tensor, weight: Tensor, bias: Tensor | None, scale: Tensor, shift: Tensor, *_: Any) -> Tensor:
    check_linear(input, weight)
    return input.new_empty(*input.shape[:-1], weight.shape[0])
