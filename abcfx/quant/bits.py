"""The bit convention (docs/bits.md), in plain torch: the reference for every packed layout.

Bit set ⇔ value < 0 ⇔ −1. Bit b of word i is channel 64·i + b. Bits past the last channel are 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD_BITS = 64
LANES = 8  # output channels side by side in a packed weight: one 512-bit load


def words_for(depth: int) -> int:
    """Words that hold `depth` bits: ⌈depth / 64⌉."""
    return (depth + WORD_BITS - 1) // WORD_BITS


def pack(values: Tensor) -> Tensor:
    """Pack the last dimension of a ±1 tensor.

    values  [..., k]          any dtype, negative or not is all that counts
    →       i64[..., words]   words = ⌈k/64⌉, tail bits 0
    """
    depth = values.shape[-1]
    words = words_for(depth)
    negative = torch.zeros(*values.shape[:-1], words * WORD_BITS, dtype=torch.int64, device=values.device)
    negative[..., :depth] = values < 0
    shifts = torch.arange(WORD_BITS, device=values.device)
    # bit 63 is the sign of an int64: the sum wraps to it, which is the bit pattern wanted
    return (negative.view(*values.shape[:-1], words, WORD_BITS) << shifts).sum(-1)


def unpack(packed: Tensor, depth: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Inverse of `pack`: i64[..., words] → ±1 [..., depth]."""
    shifts = torch.arange(WORD_BITS, device=packed.device)
    bits = (packed.unsqueeze(-1) >> shifts) & 1
    return (1 - 2 * bits).flatten(-2)[..., :depth].to(dtype)


def pack_bytes(flags: Tensor) -> Tensor:
    """Flags that are no plane, eight to a byte: bool[..., k] → uint8[..., ⌈k/8⌉], bit b of byte i is flag 8·i + b."""
    count = flags.shape[-1]
    whole = torch.zeros(*flags.shape[:-1], -(-count // 8) * 8, dtype=torch.int64, device=flags.device)
    whole[..., :count] = flags
    shifts = torch.arange(8, device=flags.device)
    return (whole.view(*flags.shape[:-1], whole.shape[-1] // 8, 8) << shifts).sum(-1).to(torch.uint8)


def unpack_bytes(packed: Tensor, count: int) -> Tensor:
    """Inverse of `pack_bytes`: uint8[..., ⌈k/8⌉] → bool[..., k]."""
    shifts = torch.arange(8, device=packed.device)
    return ((packed.to(torch.int64).unsqueeze(-1) >> shifts) & 1).flatten(-2)[..., :count].bool()
