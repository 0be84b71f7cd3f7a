"""abc_k::round_gradient: gradients → stochastically rounded integers, ready to be packed (abcfx/quant/gradients.py).

    codes[n, p·C + c, y, x] = round(grad[n, c, y, x]·gain[p, c]·inverse[n]; u)      u = hash(seed, place of the code)

One code for each of P gains: with gain[p, c] = α_p[c] the codes are those of the gradient of every weight basis, which
then need no scale of their own in the product. Codes are integers of at most 8 bits, exact in bf16, which the pack
kernels read: with the "coded" levels of `gradients.code_levels` they quantize them to themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import gradients

ABC_K.define("round_gradient(Tensor grad, Tensor gain, Tensor inverse, Tensor seed, int planes) -> Tensor")


def round_gradient(grad: Tensor, gain: Tensor, inverse: Tensor, seed: Tensor, planes: int) -> Tensor:
    """grad f32 [n, C, H, W] or [n, C], gain f32 [P, C], inverse f32 [n] or [1] (1/step), seed int64 [1]
    → bf16 [n, P·C, H, W] channels last, or [n, P·C].
    """
    last = grad.movedim(1, -1)
    t = last.unsqueeze(-2) * gain * inverse.view(-1, *[1] * (last.dim()))
    u = gradients.uniform(seed, t.numel()).view(t.shape)
    codes = gradients.round_stochastic(t, u, planes).flatten(-2).to(torch.bfloat16)
    return codes.contiguous().movedim(-1, 1)


library.register_reference(ABC_K, "round_gradient", round_gradient)


@torch.library.register_fake("abc_k::round_gradient", lib=ABC_K)
def _(grad: Tensor, gain: Tensor, inverse: Tensor, seed: Tensor, planes: int) -> Tensor:
    n, channels, *space = grad.shape
    return grad.new_empty((n, *space, gain.shape[0] * channels), dtype=torch.bfloat16).movedim(-1, 1)
