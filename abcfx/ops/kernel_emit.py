"""abc_k::linear_emit, conv2d_emit: a product and what follows it, while its values are in the cache.

    t = product                              y = clip(prelu(t + residual), low, high)
    next_bits = pack(clip(y·gain + offset, next_low, next_high))         in the layout that the next layer reads

`keep` returns y, next_planes > 0 the planes; what is not wanted is an empty tensor. Each step may be absent: residual,
slope, gain and offset None; limits at or beyond ±NO_LIMIT. With planes alone no f32 tensor is made at all.

A NaN passes the clips, as it passes torch.clamp, and packs as code 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.kernel_conv import conv2d
from abcfx.ops.kernel_linear import linear
from abcfx.ops.kernel_pack import clip, pack_image, pack_rows
from abcfx.ops.schema import ABC_K
from abcfx.quant import bits

EPILOGUE_ARGUMENTS = (
    "Tensor? residual, Tensor? slope, float low, float high, Tensor? gain, Tensor? offset, float next_low, "
    "float next_high, Tensor? next_scale, Tensor? next_shift, int next_planes, str next_levels"
)
ABC_K.define(
    "linear_emit(Tensor bits, Tensor weight_bits, Tensor alpha, Tensor tap_sums, Tensor? bias, Tensor scale, "
    f"Tensor shift, str levels, SymInt depth, {EPILOGUE_ARGUMENTS}, bool keep) -> (Tensor, Tensor)"
)
ABC_K.define(
    "conv2d_emit(Tensor bits, Tensor weight_bits, Tensor alpha, Tensor tap_sums, Tensor? bias, Tensor scale, "
    "Tensor shift, str levels, SymInt channels, SymInt[] kernel, SymInt[] stride, SymInt[] padding, "
    f"SymInt[] dilation, SymInt groups, {EPILOGUE_ARGUMENTS}, SymInt next_groups, SymInt[] next_padding, bool keep) "
    "-> (Tensor, Tensor)"
)


def _finish(t: Tensor, residual: Tensor | None, slope: Tensor | None, low: float, high: float) -> Tensor:
    t = t if residual is None else t + residual
    t = t if slope is None else torch.where(t > 0, t, t * slope)
    return clip(t, low, high)


def _normalized(y: Tensor, gain: Tensor | None, offset: Tensor | None, low: float, high: float) -> Tensor:
    return clip(y if gain is None or offset is None else y * gain + offset, low, high)


def linear_emit(
    bits_: Tensor, weight_bits: Tensor, alpha: Tensor, tap_sums: Tensor, bias: Tensor | None, scale: Tensor,
    shift: Tensor, levels: str, depth: int, residual: Tensor | None, slope: Tensor | None, low: float, high: float,
    gain: Tensor | None, offset: Tensor | None, next_low: float, next_high: float, next_scale: Tensor | None,
    next_shift: Tensor | None, next_planes: int, next_levels: str, keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y f32[rows, o], planes int64[next_planes, rows, words]); the arguments before `residual` are those of linear."""
    y = linear(bits_, weight_bits, alpha, tap_sums, bias, scale, shift, levels, depth)
    y = _finish(y, residual, slope, low, high)
    planes = bits_.new_empty(0, 0, 0)
    if next_scale is not None and next_shift is not None:
        values = _normalized(y, gain, offset, next_low, next_high)
        planes = pack_rows(values, next_scale, next_shift, next_planes, next_levels)
    return (y if keep else y.new_empty(0, y.shape[1])), planes


def conv2d_emit(
    bits_: Tensor, weight_bits: Tensor, alpha: Tensor, tap_sums: Tensor, bias: Tensor | None, scale: Tensor,
    shift: Tensor, levels: str, channels: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int],
    dilation: Sequence[int], groups: int, residual: Tensor | None, slope: Tensor | None, low: float, high: float,
    gain: Tensor | None, offset: Tensor | None, next_low: float, next_high: float, next_scale: Tensor | None,
    next_shift: Tensor | None, next_planes: int, next_levels: str, next_groups: int, next_padding: Sequence[int],
    keep: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y f32[n, oh, ow, o], planes as pack_image makes them); residual f32[n, oh, ow, o], slope, gain, offset f32[o].

    The arguments before `residual` are those of conv2d.
    """
    y = conv2d(
        bits_, weight_bits, alpha, tap_sums, bias, scale, shift, levels, channels, kernel, stride, padding, dilation,
        groups,
    )  # fmt: skip
    y = _finish(y, residual, slope, low, high)
    planes = bits_.new_empty(0, 0, 0, 0, 0)
    if next_scale is not None and next_shift is not None:
        values = _normalized(y, gain, offset, next_low, next_high).permute(0, 3, 1, 2)
        planes = pack_image(values, next_scale, next_shift, next_planes, next_levels, next_groups, next_padding)
    return (y if keep else y.new_empty(0, *y.shape[1:])), planes


library.register_reference(ABC_K, "linear_emit", linear_emit)
library.register_reference(ABC_K, "conv2d_emit", conv2d_emit)


@torch.library.register_fake("abc_k::linear_emit", lib=ABC_K)
def _(bits_, weight_bits, alpha, tap_sums, bias, scale, shift, levels, depth, *epilogue) -> tuple[Tensor, Tensor]:
    *_, next_planes, _next_levels, keep = epilogue
    rows, outputs = bits_.shape[1], alpha.shape[1]
    planes = (next_planes, rows, bits.words_for(outputs)) if next_planes else (0, 0, 0)
    return alpha.new_empty((rows if keep else 0, outputs)), bits_.new_empty(planes)


@torch.library.register_fake("abc_k::conv2d_emit", lib=ABC_K)
def _(
    bits_, weight_bits, alpha, tap_sums, bias, scale, shift, levels, channels, kernel, stride, padding, dilation,
    groups, *epilogue,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    *_, next_planes, _next_levels, next_groups, next_padding, keep = epilogue
    outputs = alpha.shape[1]
    height, width = (
        (size - dilation[axis] * (kernel[axis] - 1) - 1) // stride[axis] + 1
        for axis, size in enumerate((bits_.shape[1], bits_.shape[3]))
    )
    images = bits_.shape[0]
    padded = height + 2 * next_padding[0], next_planes, width + 2 * next_padding[1]
    planes = (images, *padded, next_groups * bits.words_for(outputs // next_groups)) if next_planes else (0,) * 5
    return alpha.new_empty((images if keep else 0, height, width, outputs)), bits_.new_empty(planes)
