"""abc_k::pack_rows, pack_image: values → bit planes in the layouts of docs/bits.md.

Activations are read as they come: f32, bf16 or f16 (widened exactly, no cast in front), any strides. With `gain` and
`offset`, f32[channels], what is quantized is x·gain[c] + offset[c], two f32 roundings: a batch norm in eval mode in
front of a layer then costs no pass over the activations of its own.

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

ABC_K.define(
    "pack_rows(Tensor input, Tensor scale, Tensor shift, int planes, str levels, Tensor? gain=None, "
    "Tensor? offset=None) -> Tensor"
)
ABC_K.define(
    "pack_image(Tensor input, Tensor scale, Tensor shift, int planes, str levels, SymInt groups, SymInt[] padding, "
    "Tensor? gain=None, Tensor? offset=None) -> Tensor"
)


def with_affine(input: Tensor, gain: Tensor | None, offset: Tensor | None) -> Tensor:
    """x or x·gain[c] + offset[c] in f32, channels in dimension 1."""
    input = input.float()
    if (gain is None) != (offset is None):
        raise ValueError(f"gain and offset go together, got only {'offset' if gain is None else 'gain'}")
    if gain is None or offset is None:
        return input
    shape = (-1, *[1] * (input.dim() - 2))
    return input * gain.view(shape) + offset.view(shape)


def pack_rows(
    input: Tensor,
    scale: Tensor,
    shift: Tensor,
    planes: int,
    levels: str,
    gain: Tensor | None = None,
    offset: Tensor | None = None,
) -> Tensor:
    """input f32, bf16 or f16 [rows, K], gain and offset f32[K] → int64 [N, rows, words]."""
    return bits.pack(activations.planes(with_affine(input, gain, offset), scale, shift, planes, levels))


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
) -> Tensor:
    """input f32, bf16 or f16 [n, C, H, W], gain and offset f32[C] → int64 [n, H+2ph, N, W+2pw, groups·words].

    Padded pixels are 0, whatever the offset is.
    """
    n, channels, height, width = input.shape
    signs = activations.planes(with_affine(input, gain, offset), scale, shift, planes, levels)
    grouped = signs.view(planes, n, groups, channels // groups, height, width).permute(1, 4, 0, 5, 2, 3)
    return pad(bits.pack(grouped).flatten(-2), (0, 0, padding[1], padding[1], 0, 0, padding[0], padding[0]))


library.register_reference(ABC_K, "pack_rows", pack_rows)
library.register_reference(ABC_K, "pack_image", pack_image)


@torch.library.register_fake("abc_k::pack_rows", lib=ABC_K)
def _(input, scale, shift, planes, levels, gain=None, offset=None) -> Tensor:
    rows, depth = input.shape
    return input.new_empty((planes, rows, bits.words_for(depth)), dtype=torch.int64)


@torch.library.register_fake("abc_k::pack_image", lib=ABC_K)
def _(input, scale, shift, planes, levels, groups, padding, gain=None, offset=None) -> Tensor:
    n, channels, height, width = input.shape
    words = groups * bits.words_for(channels // groups)
    shape = (n, height + 2 * padding[0], planes, width + 2 * padding[1], words)
    return input.new_empty(shape, dtype=torch.int64)
