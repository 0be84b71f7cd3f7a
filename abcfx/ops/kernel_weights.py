"""abc_k::pack_weights: weight bases → the layout of one of the two methods of the product (docs/bits.md).

    xnor   int64 [groups, ⌈O/groups/8⌉, M, taps·words, 8]            popcount of a ^ w
    lut    uint8 [groups, ⌈O/groups/lanes⌉, M, taps, ⌈c/8⌉, lanes]     byte shuffles over tables of partial sums

`lanes` is 8 for xnor; for lut the bytes of a vector of its kernel, 32 or 64. The dtype of packed weights
says which method the abc_k ops run.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import bits

METHODS = ("xnor", "lut")

ABC_K.define(f"pack_weights(Tensor bases, SymInt groups, int lanes={bits.LANES}) -> Tensor")


def lanes_of(method: str) -> int:
    """Output channels side by side in the weights that this machine's kernel of `method` reads."""
    return bits.LANES if method == "xnor" else library.lut_lanes()


def packed_shape(m: int, outputs: int, taps: int, channels: int, groups: int, lanes: int) -> tuple[int, ...]:
    """Shape of what `pack_weights` makes of bases [m, outputs, taps, channels]; sizes may be symbolic."""
    blocks = (outputs // groups + lanes - 1) // lanes
    if lanes == bits.LANES:
        return groups, blocks, m, taps * bits.words_for(channels), lanes
    return groups, blocks, m, taps, (channels + 7) // 8, lanes


def packed_dtype(lanes: int) -> torch.dtype:
    return torch.int64 if lanes == bits.LANES else torch.uint8


def lane_order(lanes: int, device: torch.device) -> Tensor:
    """Byte of output channel c in a block of the lookup layout: 2·(c mod lanes/2) + ⌊c / (lanes/2)⌋."""
    channel = torch.arange(lanes, device=device)
    return 2 * (channel % (lanes // 2)) + channel // (lanes // 2)


def pack_weights(bases: Tensor, groups: int, lanes: int = bits.LANES) -> Tensor:
    """bases int8 ±1 [M, O, taps, c] → packed weights; channels past the last are 0."""
    m, outputs, taps, channels = bases.shape
    cols = outputs // groups
    shape = packed_shape(m, outputs, taps, channels, groups, lanes)
    blocks = shape[1]
    if lanes == bits.LANES:
        packed = bits.pack(bases).view(m, groups, cols, -1)
        packed = pad(packed, (0, 0, 0, blocks * lanes - cols)).view(m, groups, blocks, lanes, -1)
        return packed.permute(1, 2, 0, 4, 3).contiguous()
    negative = (bases < 0).view(m, groups, cols, taps, channels)
    negative = pad(negative, (0, -channels % 8, 0, 0, 0, blocks * lanes - cols))
    places = 1 << torch.arange(8, device=bases.device)
    packed = (negative.view(m, groups, blocks, lanes, taps, -1, 8) * places).sum(-1).to(torch.uint8)
    out = bases.new_empty(shape, dtype=torch.uint8)
    out[..., lane_order(lanes, bases.device)] = packed.permute(1, 2, 0, 4, 5, 3)
    return out


def weight_signs(packed: Tensor, cols: int, taps: int, channels: int) -> Tensor:
    """Inverse of pack_weights for either layout → ±1 f32 [M, groups, cols, taps, channels]."""
    groups, blocks, m, lanes = *packed.shape[:3], packed.shape[-1]
    if packed.dtype == torch.int64:
        words = packed.permute(2, 0, 1, 4, 3).reshape(m, groups, blocks * lanes, taps, bits.words_for(channels))
        return bits.unpack(words[:, :, :cols], channels)
    ordered = packed[..., lane_order(lanes, packed.device)].permute(2, 0, 1, 5, 3, 4).long()
    ordered = ordered.reshape(m, groups, blocks * lanes, taps, -1, 1)[:, :, :cols]
    negative = ordered >> torch.arange(8, device=packed.device) & 1
    return (1 - 2 * negative).flatten(-2)[..., :channels].float()


library.register_reference(ABC_K, "pack_weights", pack_weights)


@torch.library.register_fake("abc_k::pack_weights", lib=ABC_K)
def _(bases: Tensor, groups: int, lanes: int = bits.LANES) -> Tensor:
    m, outputs, taps, channels = bases.shape
    return bases.new_empty(packed_shape(m, outputs, taps, channels, groups, lanes), dtype=packed_dtype(lanes))
