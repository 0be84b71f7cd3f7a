"""abc_k::pack_positions: a bit image, read along its output positions, as the weights of a product.

The weight gradient of a convolution sums over output positions: dW[o, (t, c)] = Σ_r g[r, o]·x[pixel(r, t), c]. To the
kernels this is a linear layer whose depth are the positions r = (n, y, x) and whose output channels are the columns
t·C + c. Its "weight bases" are the N planes of the activations, one bit for each position,

    bit r of column t·C + c of plane q = bit c of pixel (n, y·stride + ky·dilation, x·stride + kx·dilation) of plane q

in the layout of `abc_k::pack_weights` for one tap and n·oh·ow channels. Everything stays bits: an im2col and a
transpose of 8 x 8 bits at a time. Padded pixels have bits 0, +1 in every plane, as everywhere (docs/bits.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.kernel_weights import pack_weights, packed_dtype, packed_shape
from abcfx.ops.schema import ABC_K
from abcfx.quant import bits

ABC_K.define(
    "pack_positions(Tensor bits, SymInt channels, SymInt[] kernel, SymInt[] stride, SymInt[] dilation, SymInt[] out, "
    "int lanes) -> (Tensor, Tensor)"
)


def pack_positions(
    bits_: Tensor,
    channels: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    out: Sequence[int],
    lanes: int,
) -> tuple[Tensor, Tensor]:
    """bits int64 [n, H+2ph, N, W+2pw, words] → packed weights [N planes, kernel·channels columns, n·oh·ow deep], and
    int32 [N, columns], the set bits of each column.
    """
    signs = bits.unpack(bits_, channels, torch.int8)

    def tap(ky: int, kx: int) -> Tensor:
        y, x = ky * dilation[0], kx * dilation[1]
        lines = signs[:, y : y + (out[0] - 1) * stride[0] + 1 : stride[0]]
        pixels = lines[:, :, :, x : x + (out[1] - 1) * stride[1] + 1 : stride[1]]
        return pixels.permute(2, 4, 0, 1, 3).flatten(2)

    columns = torch.cat([tap(ky, kx) for ky in range(kernel[0]) for kx in range(kernel[1])], 1)
    return pack_weights(columns.unsqueeze(2), 1, lanes), (columns < 0).sum(-1, dtype=torch.int32)


library.register_reference(ABC_K, "pack_positions", pack_positions)


@torch.library.register_fake("abc_k::pack_positions", lib=ABC_K)
def _(bits_, channels, kernel, stride, dilation, out, lanes) -> tuple[Tensor, Tensor]:
    planes, columns, depth = bits_.shape[2], kernel[0] * kernel[1] * channels, bits_.shape[0] * out[0] * out[1]
    shape = packed_shape(planes, columns, 1, depth, 1, lanes)
    return bits_.new_empty(shape, dtype=packed_dtype(lanes)), bits_.new_empty((planes, columns), dtype=torch.int32)
