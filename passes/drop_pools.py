"""Pooling that does nothing goes: it would stand between a kernel and the pack that reads it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from abcfx.passes._commuting import pair
from abcfx.passes._glue import bound_to
from abcfx.passes._rule import Rule, decline
from abcfx.passes.rewrite_abc import keep_strides
from torch.fx import Node

from abcfx.graph import Builder, shape_of

aten = torch.ops.aten


def _window(input, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None):
    plain = pair(padding) == [0, 0] and divisor_override is None
    return (input, plain and pair(kernel_size) == [1, 1] and pair(stride or kernel_size) == [1, 1])


def _adaptive(input, output_size):
    """To the size that it has: every window is one pixel. A size of None is that of the input."""
    sizes, wanted = (shape_of(input) or ())[2:], pair(output_size)
    same = len(sizes) == 2 and all(isinstance(s, int) and w in (s, None) for s, w in zip(sizes, wanted, strict=True))
    return (input, same)


READERS: dict[Any, Any] = {
    F.avg_pool2d: _window, torch._C._nn.avg_pool2d: _window, aten.avg_pool2d.default: _window,
    F.adaptive_avg_pool2d: _adaptive, torch._C._nn.adaptive_avg_pool2d: _adaptive,
    aten.adaptive_avg_pool2d.default: _adaptive,
    aten._adaptive_avg_pool2d.default: _adaptive,
}  # fmt: skip


class IdentityPool(Rule):
    """avg_pool(x) with windows of one pixel, or adaptive_avg_pool(x) to the size that x has  →  x.

    Holds since the average of one value is that value; a NaN stays. Exact. Any other average mixes values, so it does
    not commute with quantizing: with levels 0 and 1, mean(0, 0.6) = 0.3 becomes 0, the mean of quantized values is 0.5.

    Before::
        def f(x: f32[2, 8, 7, 7]):
            return torch.relu(F.adaptive_avg_pool2d(x, (7, None)))
    After::
        def f(x: f32[2, 8, 7, 7]):
            return torch.relu(x)
    Before::
        def f(x: f32[2, 8, 7, 7]):
            return torch.relu(F.avg_pool2d(x, 1))
    After::
        def f(x: f32[2, 8, 7, 7]):
            return torch.relu(x)
    Declines::
        def f(x: f32[2, 8, 7, 7]):
            return torch.relu(F.adaptive_avg_pool2d(x, 1))     # averages more than one pixel
    Declines::
        def f(x: f32[2, 8, 7, 7]):
            return torch.relu(F.avg_pool2d(x, 1, 2))     # averages more than one pixel, or leaves some out
    """

    root = tuple(READERS)

    def match(self, node: Node) -> tuple:
        bound = bound_to(READERS[node.target], node)
        input, same = READERS[node.target](*bound.args, **bound.kwargs) if bound is not None else (None, False)
        if not same:
            decline("averages more than one pixel, or leaves some out")
        return (input,)

    def rewrite(self, b: Builder, input: Node) -> Node:
        return keep_strides(b, input)
