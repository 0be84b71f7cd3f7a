"""abc_k::pack_rows, pack_image: values → bit planes in the layouts of docs/bits.md.

Activations are read as they come: f32, bf16 or f16 (widened exactly, no cast in front), any strides. With `gain` and
`offset`, f32[channels], what is quantized is clip(x·gain[c] + offset[c], low, high), two f32 roundings: a batch norm in
eval mode and a ReLU in front of a layer then cost no pass over the activations of their own. Limits take effect only
where low < high, and only with an affine; a NaN passes them.

The schemas are declared here and the C++ library only implements them, so the ops exist without it. The reference is
registered for every device: where the compiled library is loaded, its CPU implementation takes precedence.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import activations, bits

NO_LIMIT = torch.finfo(torch.float32).max  # a limit at or beyond it is none

ABC_K.define(
    "pack_rows(Tensor input, Tensor scale, Tensor shift, int planes, str levels, Tensor? gain=None, "
    "Tensor? offset=None, float low=0., float high=0.) -> Tensor"
)
ABC_K.define(
    "pack_image(Tensor input, Tensor scale, Tensor shift, int planes, str levels, SymInt groups, SymInt[] padding, "
    f"Tensor? gain=None, Tensor? offset=None, float low={-NO_LIMIT}, float high={NO_LIMIT}) -> Tensor"
)


def with_affine(input: Tensor, gain: Tensor | None, offset: Tensor | None, low: float, high: float) -> Tensor:
    """x or clip(x·gain[c] + offset[c], low, high) in f32, channels in dimension 1."""
    input = input.float()
    if (gain is None) != (offset is None):
        raise ValueError(f"gain and offset go together, got only {'offset' if gain is None else 'gain'}")
    if gain is None or offset is None:
        return input
    shape = (-1, *[1] * (input.dim() - 2))
    moved = input * gain.view(shape) + offset.view(shape)
    return clip(moved, low, high) if low < high else moved


def clip(t: Tensor, low: float, high: float) -> Tensor:
    return t.clamp(low if low > -NO_LIMIT else None, high if high < NO_LIMIT else None) if clips(low, high) else t


def clips(low: float, high: float) -> bool:
    return low > -NO_LIMIT or high < NO_LIMIT


def pack_rows(
    input: Tensor,
    scale: Tensor,
    shift: Tensor,
    planes: int,
    levels: str,
    gain: Tensor | None = None,
    offset: Tensor | None = None,
    low: float = 0.0,
    high: float = 0.0,
) -> Tensor:
    """input f32, bf16 or f16 [rows, K], gain and offset f32[K] → int64 [N, rows, words]."""
    return bits.pack(activations.planes(with_affine(input, gain, offset, low, high), scale, shift, planes, levels))


def pack_image(
    input: Tensor,
    scale: Tensor,
    shift: Tensor,
    planes: int,
    levels: str,
    groups: int,
    padding: Sequence[int],
    gain: Tensor | None = None,
    offset: Tensor | None = None,
    low: float = 0.0,
    high: float = 0.0,
) -> Tensor:
    """input f32, bf16 or f16 [n, C, H, W], gain and offset f32[C] → int64 [n, H+2ph, N, W+2pw, groups·words].

    Padded pixels are 0, whatever the offset is.
    """
    n, channels, height, width = input.shape
    signs = activations.planes(with_affine(input, gain, offset, low, high), scale, shift, planes, levels)
    grouped = signs.view(planes, n, groups, channels // groups, height, width).permute(1, 4, 0, 5, 2, 3)
    return pad(bits.pack(grouped).flatten(-2), (0, 0, padding[1], padding[1], 0, 0, padding[0], padding[0]))


library.register_reference(ABC_K, "pack_rows", pack_rows)
library.register_reference(ABC_K, "pack_image", pack_image)


@torch.library.register_fake("abc_k::pack_rows", lib=ABC_K)
def _(input, scale, shift, planes, levels, gain=None, offset=None, low=0.0, high=0.0) -> Tensor:
    rows, depth = input.shape
    return input.new_empty((planes, rows, bits.words_for(depth)), dtype=torch.int64)


@torch.library.register_fake("abc_k::pack_image", lib=ABC_K)
def _(input, scale, shift, planes, levels, groups, padding, gain=None, offset=None, low=0.0, high=0.0) -> Tensor:
    n, channels, height, width = input.shape
    words = groups * bits.words_for(channels // groups)
    shape = (n, height + 2 * padding[0], planes, width + 2 * padding[1], words)
    return input.new_empty(shape, dtype=torch.int64)
