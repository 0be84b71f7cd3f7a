"""What the outputs of a layer are computed from: rows of its quantized input, as an im2col matrix would hold them.

Only the rows that are asked for are made: the windows of a convolution are a strided view of its padded input.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from abcfx.layers.base import ABCLayer
from abcfx.layers.convolution import ABCConv1d, ABCConv2d, ABCConv3d
from abcfx.layers.linear import ABCLinear
from abcfx.quant import activations

CONVOLUTIONS = (ABCConv1d, ABCConv2d, ABCConv3d)


def has_windows(layer: ABCLayer) -> bool:
    """Whether `window_rows` knows the layer: plain convolutions and linear layers that own their weight."""
    return isinstance(layer, (ABCLinear, *CONVOLUTIONS))


def window_rows(layer: ABCLayer, input: Tensor, places: Tensor) -> Tensor:
    """x̂ behind the outputs at `places`: f32[r, groups, depth], columns in the order of `flatten_weight`.

    input   as the layer gets it                places  i64[r], flat over all dimensions of the output but the channels'

    With W f[g, q, depth] the weight, flattened, row · Wᵀ is the output there, without bias. Zero padding is zero.
    """
    scale, shift = layer.levels_or_raise()
    plan = layer.plan
    quantized = activations.quantize(input.detach().float(), scale, shift, plan.activation_bases, plan.levels)
    if isinstance(layer, ABCLinear):
        return quantized.reshape(-1, 1, quantized.shape[-1])[places.to(input.device)]
    windows = _windows(layer, quantized)
    dims = len(layer.kernel_size)
    space = (windows.shape[0], *windows.shape[2 : 2 + dims])
    batch, *position = torch.unravel_index(places.to(input.device), space)
    rows = windows[(batch, slice(None), *position)]  # [r, c, *kernel]
    return rows.reshape(len(places), layer.groups, -1, rows[0, 0].numel()).transpose(2, 3).flatten(2)


def _windows(layer: ABCConv1d | ABCConv2d | ABCConv3d, image: Tensor) -> Tensor:
    """f[n, c, *out, *kernel], a view of the padded image f[n, c, *space] (or f[c, *space])."""
    dims = len(layer.kernel_size)
    if image.dim() == dims + 1:
        image = image.unsqueeze(0)
    padding, begin = layer._zero_padding()
    if layer.padding_mode == "zeros":
        image = F.pad(image, [p for p in reversed(padding) for _ in range(2)])
        for dim, first in enumerate(begin, start=2):
            image = image.narrow(dim, first, image.shape[dim] - first)
    else:
        image = F.pad(image, layer._reversed_padding_repeated_twice, mode=layer.padding_mode)
    for dim, (size, stride, dilation) in enumerate(zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)):
        image = image.unfold(dim + 2, dilation * (size - 1) + 1, stride)[..., ::dilation]
    return image
