"""abc_k::linear_emit, conv2d_emit on a CUDA device: the product and the pack on its kernels, torch's ops in between.

Planes still go from layer to layer; only the f32 values between two kernels are a tensor of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from abcfx.ops.kernel_emit import clip
from abcfx.ops.schema import ABC_K

k = torch.ops.abc_k


def _values(
    y: Tensor, residual: Tensor | None, slope: Tensor | None, low: float, high: float, gain: Tensor | None,
    offset: Tensor | None, next_low: float, next_high: float,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """(y with its epilogue, what the next layer packs): the equations of kernel_emit.py."""
    y = y if residual is None else y + residual
    y = clip(y if slope is None else torch.where(y > 0, y, y * slope), low, high)
    return y, clip(y if gain is None or offset is None else y * gain + offset, next_low, next_high)


def linear_emit(bits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    product, epilogue, (scale, shift, planes, levels, keep) = arguments[:8], arguments[8:16], arguments[16:]
    y, values = _values(k.linear(bits, *product), *epilogue)
    packed = bits.new_empty(0, 0, 0) if scale is None else k.pack_rows(values, scale, shift, planes, levels)
    return (y if keep else y.new_empty(0, y.shape[1])), packed


def conv2d_emit(bits: Tensor, *arguments: Any) -> tuple[Tensor, Tensor]:
    product, epilogue, after = arguments[:13], arguments[13:21], arguments[21:]
    scale, shift, planes, levels, groups, padding, keep = after
    y, values = _values(k.conv2d(bits, *product), *epilogue)
    packed = bits.new_empty(0, 0, 0, 0, 0)
    if scale is not None:
        packed = k.pack_image(values.permute(0, 3, 1, 2), scale, shift, planes, levels, groups, padding)
    return (y if keep else y.new_empty(0, *y.shape[1:])), packed


ABC_K.impl("linear_emit", linear_emit, "CUDA")
ABC_K.impl("conv2d_emit", conv2d_emit, "CUDA")
