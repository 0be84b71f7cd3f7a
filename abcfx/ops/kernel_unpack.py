"""abc_k::unpack_rows, unpack_image: bit planes of `pack_rows` and `pack_image` → the quantized values x̂.

x̂ = Σ_q β_q A_q + c, rounded as in `activations.quantize`, so that unpacking what was packed gives it bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import activations, bits

ABC_K.define("unpack_rows(Tensor bits, Tensor scale, Tensor shift, str levels, SymInt depth) -> Tensor")
ABC_K.define(
    "unpack_image(Tensor bits, Tensor scale, Tensor shift, str levels, SymInt channels, SymInt groups, "
    "SymInt[] padding) -> Tensor"
)


def unpack_rows(bits_: Tensor, scale: Tensor, shift: Tensor, levels: str, depth: int) -> Tensor:
    """bits int64 [N, rows, words] → x̂ f32 [rows, depth]."""
    return activations.dequantize(bits.unpack(bits_, depth), scale, shift, levels)


def unpack_image(
    bits_: Tensor, scale: Tensor, shift: Tensor, levels: str, channels: int, groups: int, padding: Sequence[int]
) -> Tensor:
    """bits int64 [n, H+2ph, N, W+2pw, groups·words] → x̂ f32 [n, groups·channels, H, W] in channels_last strides.

    channels   of one group, as in abc_k::conv2d
    padding    (ph, pw), left out of the result
    """
    images, padded_h, n, padded_w, _ = bits_.shape
    lines = slice(padding[0], padded_h - padding[0])
    inner = bits_[:, lines, :, padding[1] : padded_w - padding[1]]
    shape = (images, inner.shape[1], n, inner.shape[3], groups, bits.words_for(channels))
    signs = bits.unpack(inner.reshape(shape), channels).flatten(-2).movedim(2, 0)
    return activations.dequantize(signs, scale, shift, levels).contiguous().permute(0, 3, 1, 2)


library.register_reference(ABC_K, "unpack_rows", unpack_rows)
library.register_reference(ABC_K, "unpack_image", unpack_image)


@torch.library.register_fake("abc_k::unpack_rows", lib=ABC_K)
def _(bits_, scale, shift, levels, depth) -> Tensor:
    return scale.new_empty((bits_.shape[1], depth))


@torch.library.register_fake("abc_k::unpack_image", lib=ABC_K)
def _(bits_, scale, shift, levels, channels, groups, padding) -> Tensor:
    height, width = bits_.shape[1] - 2 * padding[0], bits_.shape[3] - 2 * padding[1]
    return scale.new_empty((bits_.shape[0], height, width, groups * channels)).permute(0, 3, 1, 2)
