"""Quantized layers, and which float layer each replaces."""

from __future__ import annotations

from torch import nn

from abcfx.layers.base import ABCLayer, NotCalibratedError
from abcfx.layers.convolution import (
    ABCConv1d,
    ABCConv2d,
    ABCConv3d,
    ABCConvTranspose1d,
    ABCConvTranspose2d,
    ABCConvTranspose3d,
)
from abcfx.layers.functional import ABCFunctional
from abcfx.layers.linear import ABCLinear

# float class → (quantized class, kind as in torch.nn.functional)
QUANTIZED: dict[type[nn.Module], tuple[type[ABCLayer], str]] = {
    nn.Linear: (ABCLinear, "linear"),
    nn.Conv1d: (ABCConv1d, "conv1d"),
    nn.Conv2d: (ABCConv2d, "conv2d"),
    nn.Conv3d: (ABCConv3d, "conv3d"),
    nn.ConvTranspose1d: (ABCConvTranspose1d, "conv_transpose1d"),
    nn.ConvTranspose2d: (ABCConvTranspose2d, "conv_transpose2d"),
    nn.ConvTranspose3d: (ABCConvTranspose3d, "conv_transpose3d"),
}

__all__ = [
    "QUANTIZED",
    "ABCConv1d",
    "ABCConv2d",
    "ABCConv3d",
    "ABCConvTranspose1d",
    "ABCConvTranspose2d",
    "ABCConvTranspose3d",
    "ABCFunctional",
    "ABCLayer",
    "ABCLinear",
    "NotCalibratedError",
]
