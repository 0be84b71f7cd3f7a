"""abc::quantize_weight:  Ŵ = Σ_p α_p B_p of a live weight; abc::weight_scales: its α."""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.ops.schema import ABC
from abcfx.ops.weight_cache import WeightRecipe, dequantized, fit_of

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


ABC.define(
    "weight_scales(Tensor weight, bool transposed, SymInt groups, int weight_bases, str basis, bool per_channel)"
    " -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "weight_scales", "CompositeExplicitAutograd")
def weight_scales(
    weight: Tensor, transposed: bool, groups: int, weight_bases: int, basis: str, per_channel: bool
) -> Tensor:
    """α f32[M, o]."""
    return fit_of(weight, WeightRecipe(weight_bases, basis, per_channel, transposed, groups)).scales.clone()


@torch.library.register_fake("abc::weight_scales", lib=ABC)
def _(weight: Tensor, transposed: bool, groups: int, weight_bases: int, basis: str, per_channel: bool) -> Tensor:
    outputs = weight.shape[1] * groups if transposed else weight.shape[0]
    return weight.new_empty((weight_bases, outputs), dtype=torch.float32)
