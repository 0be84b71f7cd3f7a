"""abc::quantize_activation:  x̂ = Σ_q β_q A_q(x) + c, with a straight-through adjoint (abcfx/quant/ste.py)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abcfx.ops.schema import ABC
from abcfx.quant import activations, ste

ABC.define(
    "quantize_activation(Tensor input, Tensor scale, Tensor shift, int activation_bases, str levels) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "quantize_activation", "CompositeExplicitAutograd")
def quantize_activation(input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> Tensor:
    return activations.quantize(input, scale, shift, activation_bases, levels)


@torch.library.register_fake("abc::quantize_activation", lib=ABC)
def _fake(input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> Tensor:
    return torch.empty_like(input)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    input, scale, shift, ctx.activation_bases, ctx.levels = inputs
    ctx.save_for_backward(input, scale, shift)


def activation_adjoint(grad: Tensor, input: Tensor, scale: Tensor, shift: Tensor, planes: int, levels: str) -> tuple:
    """Gradients of (input, scale, shift) from the gradient of x̂, each in the dtype of its tensor."""
    dx, dscale, dshift = ste.activation_adjoint(
        grad.float(), input.float(), scale.float(), shift.float(), planes, levels
    )
    return dx.to(input.dtype), dscale.to(scale.dtype), dshift.to(shift.dtype)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    return (*activation_adjoint(grad, *ctx.saved_tensors, ctx.activation_bases, ctx.levels), None, None)


torch.library.register_autograd("abc::quantize_activation", _backward, setup_context=_setup_context, lib=ABC)
