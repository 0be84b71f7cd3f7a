"""abc::quantize_activation:  x̂ = Σ_q β_q A_q(x) + c; abc::activation_adjoint: its straight-through adjoint on bits."""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.ops.saved_activation import in_memory_format, is_channels_last
from abcfx.ops.schema import ABC
from abcfx.quant import activations

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


ABC.define(
    "activation_windows(Tensor input, Tensor scale, Tensor shift, int activation_bases, str levels) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "activation_windows", "CompositeExplicitAutograd")
def activation_windows(input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> Tensor:
    """What activation_adjoint needs of x, in bits, in channels-last order if x is so, else in row-major order."""
    input = in_memory_format(input.float(), is_channels_last(input))
    return torch.ops.abc_k.window_bits(input, scale.float(), shift.float(), activation_bases, levels)


@torch.library.register_fake("abc::activation_windows", lib=ABC)
def _(input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str) -> Tensor:
    rows = 2 if levels == "coded" else 2 * activation_bases
    return input.new_empty((rows, (input.numel() + 7) // 8), dtype=torch.uint8)


ABC.define(
    "activation_adjoint(Tensor grad, Tensor windows, Tensor scale, int activation_bases, str levels) "
    "-> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "activation_adjoint", "CompositeExplicitAutograd")
def activation_adjoint(
    grad: Tensor, windows: Tensor, scale: Tensor, activation_bases: int, levels: str
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dscale, dshift) in f32 from the gradient of x̂, which lies in memory as x did when its windows were saved."""
    return torch.ops.abc_k.window_adjoint(grad.float(), windows, scale.float(), activation_bases, levels)


@torch.library.register_fake("abc::activation_adjoint", lib=ABC)
def _(grad: Tensor, windows: Tensor, scale: Tensor, activation_bases: int, levels: str) -> tuple:
    levels_ = scale.new_empty(scale.shape, dtype=torch.float32)
    return torch.empty_like(grad, dtype=torch.float32), levels_, torch.empty_like(levels_)
