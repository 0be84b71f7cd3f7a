"""abc_k::pack_weights: weight bases → the layout of one of the two methods of the product (docs/bits.md).

    xnor   int64 [groups, ⌈O/groups/8⌉, M, taps·words, 8]            popcount of a ^ w
    xnor   int64 [groups, M, O/groups, taps·words]                   the same on a CUDA device (docs/cuda.md)
    lut    uint8 [groups, ⌈O/groups/lanes⌉, V, taps, ⌈c/8⌉, lanes]     byte shuffles over tables of partial sums

V = M, or ⌈M/2⌉ where the outputs of a group fill half a vector: then two planes share it (csrc/include/abcfx/lut.h).
`lanes` is 8 for xnor, 1 for xnor on a CUDA device; for lut the bytes of a vector of its kernel, 32 or 64. The dtype of
packed weights says which method the abc_k ops run.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import pad

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import bits

METHODS = ("xnor", "lut")
CUDA_LANES = 1

ABC_K.define(f"pack_weights(Tensor bases, SymInt groups, int lanes={bits.LANES}) -> Tensor")


def lanes_of(method: str, device: torch.device | None = None) -> int:
    """Output channels side by side in the weights that the kernel of `method` reads on a device, without one: a CPU."""
    if device is not None and device.type == "cuda":
        return CUDA_LANES
    return bits.LANES if method == "xnor" else library.lut_lanes()


def packed_shape(m: int, outputs: int, taps: int, channels: int, groups: int, lanes: int) -> tuple[int, ...]:
    """Shape of what `pack_weights` makes of bases [m, outputs, taps, channels]; sizes may be symbolic."""
    blocks = (outputs // groups + lanes - 1) // lanes
    if lanes == CUDA_LANES:
        return groups, m, outputs // groups, taps * bits.words_for(channels)
    if lanes == bits.LANES:
        return groups, blocks, m, taps * bits.words_for(channels), lanes
    return groups, blocks, (m + 1) // 2 if folded(outputs // groups, lanes) else m, taps, (channels + 7) // 8, lanes


def folded(cols: int, lanes: int) -> bool:
    """Whether two planes share a vector of the lookup layout."""
    return 2 * cols <= lanes


def packed_dtype(lanes: int) -> torch.dtype:
    return torch.int64 if lanes in (CUDA_LANES, bits.LANES) else torch.uint8


def byte_of(m: int, cols: int, lanes: int, device: torch.device) -> Tensor:
    """int64 [m, lanes]: where output channel c of plane p stands among the bytes of all vectors of a block; only the
    first `cols` channels if planes are folded.
    """
    plane, channel = torch.arange(m, device=device).unsqueeze(1), torch.arange(lanes, device=device)
    if folded(cols, lanes):
        return plane // 2 * lanes + plane % 2 + 2 * channel[:cols]
    return plane * lanes + 2 * (channel % (lanes // 2)) + channel // (lanes // 2)


def pack_weights(bases: Tensor, groups: int, lanes: int = bits.LANES) -> Tensor:
    """bases int8 ±1 [M, O, taps, c] → packed weights; channels past the last are 0."""
    m, outputs, taps, channels = bases.shape
    cols = outputs // groups
    shape = packed_shape(m, outputs, taps, channels, groups, lanes)
    if lanes == CUDA_LANES:
        return bits.pack(bases).view(m, groups, cols, -1).transpose(0, 1).contiguous()
    blocks = shape[1]
    if lanes == bits.LANES:
        packed = bits.pack(bases).view(m, groups, cols, -1)
        packed = pad(packed, (0, 0, 0, blocks * lanes - cols)).view(m, groups, blocks, lanes, -1)
        return packed.permute(1, 2, 0, 4, 3).contiguous()
    wide = cols if folded(cols, lanes) else lanes
    width = blocks * wide
    negative = pad((bases < 0).view(m, groups, cols, taps, channels), (0, -channels % 8, 0, 0, 0, width - cols))
    places = 1 << torch.arange(8, device=bases.device)
    packed = (negative.view(m, groups, blocks, wide, taps, shape[4], 8) * places).sum(-1).to(torch.uint8)
    out = bases.new_zeros((groups, blocks, taps, shape[4], shape[2] * lanes), dtype=torch.uint8)
    out[..., byte_of(m, cols, lanes, bases.device)] = packed.permute(1, 2, 4, 5, 0, 3)
    return out.unflatten(-1, (shape[2], lanes)).permute(0, 1, 4, 2, 3, 5).contiguous()


def weight_signs(packed: Tensor, m: int, cols: int, taps: int, channels: int) -> Tensor:
    """Inverse of pack_weights for each layout → ±1 f32 [M, groups, cols, taps, channels]."""
    if packed.dim() == 4:
        words = packed.transpose(0, 1).reshape(m, packed.shape[0], cols, taps, bits.words_for(channels))
        return bits.unpack(words, channels)
    groups, blocks, lanes = *packed.shape[:2], packed.shape[-1]
    if packed.dtype == torch.int64:
        words = packed.permute(2, 0, 1, 4, 3).reshape(m, groups, blocks * lanes, taps, bits.words_for(channels))
        return bits.unpack(words[:, :, :cols], channels)
    flat = packed.permute(0, 1, 3, 4, 2, 5).flatten(-2)
    ordered = flat[..., byte_of(m, cols, lanes, packed.device)].permute(4, 0, 1, 5, 2, 3).long()
    ordered = ordered.reshape(m, groups, -1, taps, packed.shape[4], 1)[:, :, :cols]
    negative = ordered >> torch.arange(8, device=packed.device) & 1
    return (1 - 2 * negative).flatten(-2)[..., :channels].float()


library.register_reference(ABC_K, "pack_weights", pack_weights)


@torch.library.register_fake("abc_k::pack_weights", lib=ABC_K)
def _(bases: Tensor, groups: int, lanes: int = bits.LANES) -> Tensor:
    m, outputs, taps, channels = bases.shape
    return bases.new_empty(packed_shape(m, outputs, taps, channels, groups, lanes), dtype=packed_dtype(lanes))
