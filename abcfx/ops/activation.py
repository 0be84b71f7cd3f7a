"""abc::quantize_activation:  x̂ = Σ_q β_q A_q(x) + c; abc::activation_adjoint: its straight-through adjoint on bits;
abc::fake_quantize: the same x̂ without bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abcfx.ops.saved_activation import in_memory_format, is_channels_last, windows_of
from abcfx.ops.schema import ABC
from abcfx.quant import activations
from abcfx.quant.ste import thermometer_windows

ABC.define(
    "quantize_activation(Tensor input, Tensor scale, Tensor shift, int activation_bases, str levels, "
    "str ste='identity') -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "quantize_activation", "CompositeExplicitAutograd")
def quantize_activation(
    input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str, ste: str = "identity"
) -> Tensor:
    """x̂; `ste` is the straight-through rule of its adjoint."""
    return activations.quantize(input, scale, shift, activation_bases, levels)


@torch.library.register_fake("abc::quantize_activation", lib=ABC)
def _fake(input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(input)


ABC.define(
    "fake_quantize(Tensor input, Tensor scale, Tensor shift, int activation_bases, str ste='identity') -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "fake_quantize", "CompositeExplicitAutograd")
def fake_quantize(
    input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, ste: str = "identity"
) -> Tensor:
    """x̂ of coded levels as quantize_activation gives it; its adjoint keeps x and not bits, for compilers to fuse."""
    return activations.quantize(input, scale, shift, activation_bases, "coded")


torch.library.register_fake("abc::fake_quantize", _fake, lib=ABC)


ABC.define(
    "activation_windows(Tensor input, Tensor scale, Tensor shift, int activation_bases, str levels, "
    "str ste='identity') -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "activation_windows", "CompositeExplicitAutograd")
def activation_windows(
    input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str, ste: str = "identity"
) -> Tensor:
    """What activation_adjoint needs of x, in bits, in channels-last order if x is so, else in row-major order."""
    input = in_memory_format(input.float(), is_channels_last(input))
    return windows_of(input, scale.float(), shift.float(), activation_bases, levels, ste)


@torch.library.register_fake("abc::activation_windows", lib=ABC)
def _(input: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str, *_: Any) -> Tensor:
    rows = 2 if levels == "coded" else 2 * activation_bases
    return input.new_empty((rows, (input.numel() + 7) // 8), dtype=torch.uint8)


ABC.define(
    "activation_adjoint(Tensor grad, Tensor windows, Tensor scale, Tensor shift, int activation_bases, str levels, "
    "str ste='identity') -> (Tensor, Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "activation_adjoint", "CompositeExplicitAutograd")
def activation_adjoint(
    grad: Tensor,
    windows: Tensor,
    scale: Tensor,
    shift: Tensor,
    activation_bases: int,
    levels: str,
    ste: str = "identity",
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dscale, dshift) in f32 from the gradient of x̂, which lies in memory as x did when its windows were saved."""
    slopes = scale.float()
    if levels == "thermometer":
        _, slopes = thermometer_windows(slopes, shift.float(), ste)
    return torch.ops.abc_k.window_adjoint(grad.float(), windows, slopes, activation_bases, levels)


@torch.library.register_fake("abc::activation_adjoint", lib=ABC)
def _(grad: Tensor, windows: Tensor, scale: Tensor, *_: Any) -> tuple:
    levels_ = scale.new_empty(scale.shape, dtype=torch.float32)
    return torch.empty_like(grad, dtype=torch.float32), levels_, torch.empty_like(levels_)
