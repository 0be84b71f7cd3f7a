"""abc_k::max_pool_bits: max pooling on the planes of a bit image, exact because quantizing is monotone.

max over a window of codes = code of the max:   thermometer: each plane +1 where it is anywhere;   coded: integers compared
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import bits

ABC_K.define(
    "max_pool_bits(Tensor bits, str levels, SymInt[] kernel, SymInt[] stride, SymInt[] padding, SymInt[] before, "
    "SymInt[] after) -> Tensor"
)


def max_pool_bits(
    bits_: Tensor,
    levels: str,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
) -> Tensor:
    """int64 [n, h+2bh, N, w+2bw, words] → int64 [n, h'+2ah, N, w'+2aw, words].

    padding  of the windows (pixels outside never win); before, after: padding of the bit images, dropped and made anew
    """
    images, padded_h, planes, padded_w, words = bits_.shape
    inside = bits_[:, before[0] : padded_h - before[0], :, before[1] : padded_w - before[1]]
    plus = (bits.unpack(inside, words * 64) > 0).to(torch.float32).permute(0, 2, 4, 1, 3)  # n, N, channels, h, w
    if levels == "coded":
        powers = 2.0 ** torch.arange(planes, dtype=torch.float32, device=bits_.device)
        codes = torch.einsum("q,nqchw->nchw", powers, plus)
        best = max_pool2d(codes, kernel, stride, padding).to(torch.int64)
        found = torch.stack([best >> q & 1 for q in range(planes)], 1)
    else:
        flat = max_pool2d(plus.reshape(images, -1, *plus.shape[3:]), kernel, stride, padding)
        found = flat.reshape(images, planes, -1, *flat.shape[2:]).to(torch.int64)
    packed = bits.pack((found * 2 - 1).permute(0, 3, 1, 4, 2).to(torch.float32))
    return pad(packed, (0, 0, after[1], after[1], 0, 0, after[0], after[0]))


library.register_reference(ABC_K, "max_pool_bits", max_pool_bits)


@torch.library.register_fake("abc_k::max_pool_bits", lib=ABC_K)
def _(bits_, levels, kernel, stride, padding, before, after) -> Tensor:
    images, padded_h, planes, padded_w, words = bits_.shape
    height, width = (
        (size - 2 * before[axis] + 2 * padding[axis] - kernel[axis]) // stride[axis] + 1
        for axis, size in enumerate((padded_h, padded_w))
    )
    return bits_.new_empty((images, height + 2 * after[0], planes, width + 2 * after[1], words))
