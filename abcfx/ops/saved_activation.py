"""abc::save_activation: all that a training step keeps of the input of a quantized layer, in bits.

    planes   the N bit planes of Â: what the product of the forward pass reads, and again that of the weight gradient
    windows  where the straight-through adjoint lets a gradient pass (abcfx/ops/kernel_windows.py)

N + 2 bits a value for coded levels, 3N for thermometer levels, instead of the 32 of the float activation.

Planes lie as their product wants them (docs/bits.md): [N, rows, words] for a linear layer, a padded bit image for a 1-d
or 2-d convolution of enough channels, else flat, [N, 1, words] in memory order, for the layers that run in float.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch._prims_common import suggest_memory_format

from abcfx.ops.choose import MIN_CHANNELS
from abcfx.ops.convolution import image_of, two_dims
from abcfx.ops.schema import ABC, GEOMETRY_ARGUMENTS, Geometry
from abcfx.quant import bits
from abcfx.quant.ste import thermometer_windows

abc_k = torch.ops.abc_k

ABC.define(
    "save_activation(Tensor input, Tensor scale, Tensor shift, SymInt[] weight_size, "
    f"{GEOMETRY_ARGUMENTS}, int activation_bases, str levels, str ste='identity') -> (Tensor, Tensor)",
    tags=(torch.Tag.pt2_compliant_tag,),
)


def layout_of(weight_size: Sequence[int], geometry: Geometry) -> str:
    """ "rows", "image" or "flat": the layout of the planes of a layer. Depends on nothing that may be symbolic."""
    if geometry.linear:
        return "rows"
    plain = not geometry.transposed and len(weight_size) <= 4
    return "image" if plain and weight_size[1] >= MIN_CHANNELS else "flat"


def is_channels_last(input: Tensor) -> bool:
    return input.dim() == 4 and suggest_memory_format(input) == torch.channels_last


def in_memory_format(tensor: Tensor, channels_last: bool) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


@torch.library.impl(ABC, "save_activation", "CompositeExplicitAutograd")
def save_activation(
    input: Tensor, scale: Tensor, shift: Tensor, weight_size: Sequence[int], *arguments: Any
) -> tuple[Tensor, Tensor]:
    geometry, (n, levels, *rule) = Geometry(*arguments[:6]), arguments[6:]
    input = in_memory_format(input, is_channels_last(input))
    input = input.float() if input.dtype == torch.float64 else input
    scale, shift = scale.float(), shift.float()
    layout = layout_of(weight_size, geometry)
    if layout == "rows":
        planes = abc_k.pack_rows(input.reshape(-1, input.shape[-1]), scale, shift, n, levels)
    elif layout == "image":
        padding = two_dims(geometry.padding, 0)
        planes = abc_k.pack_image(image_of(input), scale, shift, n, levels, geometry.groups, padding)
    else:
        planes = abc_k.pack_rows(memory_of(input).view(1, -1), scale, shift, n, levels)
    return planes, windows_of(input, scale, shift, n, levels, *rule)


def windows_of(input: Tensor, scale: Tensor, shift: Tensor, n: int, levels: str, ste: str = "identity") -> Tensor:
    """Window bits by the straight-through rule `ste`, of a dense input and f32 levels.

    Raises ValueError for "triangle", whose slopes no bit says.
    """
    if ste == "triangle":
        raise ValueError(
            "ste='triangle' is a rule of simulated training: torch.compile(model, backend='abc', options={'simulate': "
            "True}), with grad_bases=0; or train with ste='identity'"
        )
    edges = thermometer_windows(scale, shift, ste)[0] if levels == "thermometer" else None
    return abc_k.window_bits(input, scale, shift, n, levels, edges)


def memory_of(tensor: Tensor) -> Tensor:
    """A dense tensor as one line, in the order in which it lies in memory."""
    return tensor.as_strided((tensor.numel(),), (1,))


def unpack_activation(
    planes: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight_size: Sequence[int],
    input_size: Sequence[int],
    channels_last: bool,
    geometry: Geometry,
    levels: str,
) -> Tensor:
    """x̂ f32, of the size and memory format of the input that was saved."""
    scale, shift = scale.float(), shift.float()
    layout = layout_of(weight_size, geometry)
    if layout == "rows":
        return abc_k.unpack_rows(planes, scale, shift, levels, input_size[-1]).view(list(input_size))
    if layout == "image":
        padding = two_dims(geometry.padding, 0)
        x = abc_k.unpack_image(planes, scale, shift, levels, weight_size[1], geometry.groups, padding)
        return in_memory_format(x.view(list(input_size)) if len(input_size) == 3 else x, channels_last)
    flat = abc_k.unpack_rows(planes, scale, shift, levels, prod(input_size))
    like = in_memory_format(torch.empty(list(input_size), device="meta"), channels_last)
    return flat.as_strided(like.shape, like.stride())


@torch.library.register_fake("abc::save_activation", lib=ABC)
def _fake(
    input: Tensor, scale: Tensor, shift: Tensor, weight_size: Sequence[int], *arguments: Any
) -> tuple[Tensor, Tensor]:
    geometry, (n, levels, *_) = Geometry(*arguments[:6]), arguments[6:]
    layout, groups = layout_of(weight_size, geometry), geometry.groups
    if layout == "rows":
        shape = [n, prod(input.shape[:-1]), bits.words_for(input.shape[-1])]
    elif layout == "image":
        (ph, pw), (height, width) = two_dims(geometry.padding, 0), two_dims(input.shape[2:], 1)
        words = groups * bits.words_for(weight_size[1])
        shape = [input.shape[0], height + 2 * ph, n, width + 2 * pw, words]
    else:
        shape = [n, 1, bits.words_for(input.numel())]
    windows = [2 if levels == "coded" else 2 * n, (input.numel() + 7) // 8]
    return input.new_empty(shape, dtype=torch.int64), input.new_empty(windows, dtype=torch.uint8)
