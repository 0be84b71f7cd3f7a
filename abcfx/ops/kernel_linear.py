"""abc_k::linear: the scaled sum of M·N binary products, plus what the constant part of the levels and the bias add.

y[r, o] = Σ_p α[p, o] Σ_q β_q · dot(A_q[r], B_p[o]) + c·Σ_k Ŵ[o, k] + bias[o]        dot = depth - 2·popcount(a ^ w)
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.kernel_weights import weight_signs
from abcfx.ops.schema import ABC_K
from abcfx.quant import activations, bits

ABC_K.define(
    "linear(Tensor bits, Tensor weight_bits, Tensor alpha, Tensor tap_sums, Tensor? bias, Tensor scale, Tensor shift, "
    "str levels, SymInt depth) -> Tensor"
)


def linear(
    bits_: Tensor,
    weight_bits: Tensor,
    alpha: Tensor,
    tap_sums: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    levels: str,
    depth: int,
) -> Tensor:
    """bits int64 [N, rows, words], alpha f32 [M, O], tap_sums f32 [O, 1] = Σ_k Ŵ[o, k] → f32 [rows, O]."""
    n = bits_.shape[0]
    beta, constant = activations.coefficients(scale, shift, n, levels)
    a = bits.unpack(bits_, depth)
    w = weight_signs(weight_bits, *alpha.shape, 1, depth).reshape(*alpha.shape, depth)
    base = constant * tap_sums[:, 0] if bias is None else constant * tap_sums[:, 0] + bias
    return torch.einsum("q,po,qrk,pok->ro", beta, alpha, a, w) + base


library.register_reference(ABC_K, "linear", linear)


@torch.library.register_fake("abc_k::linear", lib=ABC_K)
def _(bits_, weight_bits, alpha, tap_sums, bias, scale, shift, levels, depth) -> Tensor:
    return alpha.new_empty((bits_.shape[1], alpha.shape[1]))
