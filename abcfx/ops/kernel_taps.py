"""abc_k::rows_as_taps: packed weights of a linear layer over a flattened image → those of a convolution of its size.

    Σ_k W[o, k]·flatten(x)[k]  =  Σ_taps Σ_c W[o, c, tap]·x[c, tap]        k = (c, tap), tap = (row, column)

The same signs in another order, and the same α; tap sums S[o, tap] = Σ_p α[p, o] Σ_c B_p[o, c, tap] are made anew. It
is run on constants alone, once (passes/hoist.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.kernel_weights import CUDA_LANES, pack_weights, packed_shape, weight_signs
from abcfx.ops.schema import ABC_K
from abcfx.quant import bits

BLOCKS = 8  # of output channels at a time: signs take 64 times the room of their bits

ABC_K.define("rows_as_taps(Tensor weight_bits, Tensor alpha, SymInt channels, SymInt taps) -> (Tensor, Tensor)")


def _lanes(weight_bits: Tensor) -> int:
    return CUDA_LANES if weight_bits.dim() == 4 else weight_bits.shape[-1]


def rows_as_taps(weight_bits: Tensor, alpha: Tensor, channels: int, taps: int) -> tuple[Tensor, Tensor]:
    """weight_bits of pack_weights for [M, O, 1, channels·taps], alpha f32[M, O] → (bits for [M, O, taps, channels],
    tap sums f32[O, taps]).
    """
    (m, outputs), lanes = alpha.shape, _lanes(weight_bits)
    blocks = 1 if lanes == CUDA_LANES else weight_bits.shape[1]
    packed, sums = [], []
    for first in range(0, blocks, BLOCKS):
        last = min(first + BLOCKS, blocks)
        part = weight_bits if blocks == 1 else weight_bits[:, first:last]
        cols = outputs if blocks == 1 else (last - first) * lanes  # with channels past the last, whose bits are 0
        signs = weight_signs(part, m, cols, 1, channels * taps).reshape(m, cols, channels, taps).transpose(2, 3)
        scales = alpha[:, first * lanes :][:, :cols]
        sums.append(torch.einsum("po,pot->ot", scales, signs[:, : scales.shape[1]].sum(-1)))
        packed.append(pack_weights(signs.to(torch.int8), 1, lanes))
    return torch.cat(packed, 1), torch.cat(sums)


library.register_reference(ABC_K, "rows_as_taps", rows_as_taps)


@torch.library.register_fake("abc_k::rows_as_taps", lib=ABC_K)
def _(weight_bits, alpha, channels, taps) -> tuple[Tensor, Tensor]:
    m, outputs = alpha.shape
    lanes = bits.LANES if weight_bits.dim() == 5 and weight_bits.dtype == torch.int64 else _lanes(weight_bits)
    shape = packed_shape(m, outputs, taps, channels, 1, lanes)
    return weight_bits.new_empty(shape), alpha.new_empty((outputs, taps))
