"""abc::quantize_weight:  Ŵ = Σ_p α_p B_p of a live weight, with the identity straight-through adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abcfx.ops.schema import ABC
from abcfx.ops.weight_cache import WeightRecipe, dequantized
from abcfx.quant import ste

ABC.define(
    "quantize_weight(Tensor weight, bool transposed, SymInt groups, int weight_bases, str basis, bool per_channel)"
    " -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "quantize_weight", "CompositeExplicitAutograd")
def quantize_weight(
    weight: Tensor, transposed: bool, groups: int, weight_bases: int, basis: str, per_channel: bool
) -> Tensor:
    # cloned: an operator must not hand out a tensor that others hold
    return dequantized(weight, WeightRecipe(weight_bases, basis, per_channel, transposed, groups)).clone()


@torch.library.register_fake("abc::quantize_weight", lib=ABC)
def _fake(weight: Tensor, transposed: bool, groups: int, weight_bases: int, basis: str, per_channel: bool) -> Tensor:
    return torch.empty_like(weight, memory_format=torch.contiguous_format)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    weight, *_, ctx.basis, _per_channel = inputs
    ctx.save_for_backward(weight)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    (weight,) = ctx.saved_tensors
    return ste.weight_adjoint(grad, weight, ctx.basis), None, None, None, None, None


torch.library.register_autograd("abc::quantize_weight", _backward, setup_context=_setup_context, lib=ABC)
