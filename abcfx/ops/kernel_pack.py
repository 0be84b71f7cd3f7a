"""abc_k::pack_rows, pack_image: values → bit planes in the layouts of docs/bits.md.

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

ABC_K.define("pack_rows(Tensor input, Tensor scale, Tensor shift, int planes, str levels) -> Tensor")
ABC_K.define(
    "pack_image(Tensor input, Tensor scale, Tensor shift, int planes, str levels, SymInt groups, SymInt[] padding) "
    "-> Tensor"
)


def pack_rows(input: Tensor, scale: Tensor, shift: Tensor, planes: int, levels: str) -> Tensor:
    """input f32 [rows, K] → int64 [N, rows, words]."""
    return bits.pack(activations.planes(input, scale, shift, planes, levels))


def pack_image(
    input: Tensor, scale: Tensor, shift: Tensor, planes: int, levels: str, groups: int, padding: Sequence[int]
) -> Tensor:
    """input f32 [n, C, H, W] → int64 [n, H+2ph, N, W+2pw, groups·words]; padded pixels are 0."""
    n, channels, height, width = input.shape
    signs = activations.planes(input, scale, shift, planes, levels)
    grouped = signs.view(planes, n, groups, channels // groups, height, width).permute(1, 4, 0, 5, 2, 3)
    return pad(bits.pack(grouped).flatten(-2), (0, 0, padding[1], padding[1], 0, 0, padding[0], padding[0]))


library.register_reference(ABC_K, "pack_rows", pack_rows)
library.register_reference(ABC_K, "pack_image", pack_image)


@torch.library.register_fake("abc_k::pack_rows", lib=ABC_K)
def _(input: Tensor, scale: Tensor, shift: Tensor, planes: int, levels: str) -> Tensor:
    rows, depth = input.shape
    return input.new_empty((planes, rows, bits.words_for(depth)), dtype=torch.int64)


@torch.library.register_fake("abc_k::pack_image", lib=ABC_K)
def _(
    input: Tensor, scale: Tensor, shift: Tensor, planes: int, levels: str, groups: int, padding: Sequence[int]
) -> Tensor:
    n, channels, height, width = input.shape
    words = groups * bits.words_for(channels // groups)
    shape = (n, height + 2 * padding[0], planes, width + 2 * padding[1], words)
    return input.new_empty(shape, dtype=torch.int64)
