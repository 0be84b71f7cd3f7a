"""abc_k::conv2d: a binary convolution over a padded bit image; zero padding contributes exactly zero (docs/bits.md).

y[n, i, j, o] = Σ_taps Σ_channels Â·Ŵ + bias,        Â = Σ_q β_q A_q + c inside the image, 0 in the padding
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d as float_conv2d

from abcfx.ops import library
from abcfx.ops.kernel_weights import weight_signs
from abcfx.ops.schema import ABC_K
from abcfx.quant import activations, bits

ABC_K.define(
    "conv2d(Tensor bits, Tensor weight_bits, Tensor alpha, Tensor tap_sums, Tensor? bias, Tensor scale, Tensor shift, "
    "str levels, SymInt channels, SymInt[] kernel, SymInt[] stride, SymInt[] padding, SymInt[] dilation, "
    "SymInt groups) -> Tensor"
)


def conv2d(
    bits_: Tensor,
    weight_bits: Tensor,
    alpha: Tensor,
    tap_sums: Tensor,
    bias: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    levels: str,
    channels: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """bits int64 [n, H+2ph, N, W+2pw, groups·words], channels per group, tap_sums unused here → f32 [n, oh, ow, O].

    The dequantized operands, in f32: planes summed inside the image, zeros around it, then the float convolution.
    """
    images, padded_h, n, padded_w, _ = bits_.shape
    m, outputs = alpha.shape
    words = bits.words_for(channels)
    beta, constant = activations.coefficients(scale, shift, n, levels)
    signs = bits.unpack(bits_.reshape(images, padded_h, n, padded_w, groups, words), channels)
    values = torch.einsum("q,nhqwgc->ngchw", beta, signs) + constant
    values = values.reshape(images, groups * channels, padded_h, padded_w)
    inside = torch.zeros(padded_h, padded_w, device=bits_.device)
    inside[padding[0] : padded_h - padding[0], padding[1] : padded_w - padding[1]] = 1
    taps = kernel[0] * kernel[1]
    bases = weight_signs(weight_bits, m, outputs // groups, taps, channels).reshape(m, outputs, taps, channels)
    weight = torch.einsum("po,potc->oct", alpha, bases).reshape(outputs, channels, kernel[0], kernel[1])
    y = float_conv2d(values * inside, weight, bias, stride, 0, dilation, groups)
    return y.permute(0, 2, 3, 1).contiguous()


library.register_reference(ABC_K, "conv2d", conv2d)


@torch.library.register_fake("abc_k::conv2d", lib=ABC_K)
def _(
    bits_, weight_bits, alpha, tap_sums, bias, scale, shift, levels,
    channels, kernel, stride, padding, dilation, groups,
) -> Tensor:  # fmt: skip
    out = [
        (size - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis, size in enumerate((bits_.shape[1], bits_.shape[3]))
    ]
    return alpha.new_empty((bits_.shape[0], out[0], out[1], alpha.shape[1]))
