"""On request, layers that stay in float multiply in bfloat16: stem and classifier of a quantized network, mostly.

Beside products of a few bits they weigh the more: of the 25 ms of a ResNet-18 at (1, 1), 8 images, two cores with AMX,
5 go into the f32 stem. For inference; a training step has `torch.autocast`.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Any

import torch
from abcfx.passes._commuting import MAX_POOLS, PoolView, commuting
from abcfx.passes._constants import constant_view
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from abcfx.passes.canonicalize import CANONICALIZE
from abcfx.passes.pool_first import respellable
from abcfx.passes.rewrite_abc import keep_strides
from torch import Tensor
from torch.fx import GraphModule, Node

from abcfx.graph import Builder, ConvView, LinearView, dtype_of, made_by, value, view

aten = torch.ops.aten


class NarrowLayer(Rule):
    """layer(x, w) + bias  →  f32(layer(bf16(x), bf16(w))) + bias, for a float layer with a constant weight.

    Not exact: x, w and the sum are rounded to 8 bits, 2^-9 of each; the layer sums products in f32. bf16(w) is made
    once (hoist.py).

    Before::
        def f(x: f32[2, 3, 8, 8], w: f32[4, 3, 3, 3].constant, b: f32[4].constant):
            return aten.convolution.default(x, w, b, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
    After::
        def f(x: f32[2, 3, 8, 8], w: f32[4, 3, 3, 3].constant, b: f32[4].constant):
            narrow = aten.to.dtype(x, torch.bfloat16), aten.to.dtype(w, torch.bfloat16)
            y = aten.convolution.default(*narrow, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            return aten.add.Tensor(aten.to.dtype(y, torch.float32), aten.reshape.default(b, [-1, 1, 1]))
    Before::
        def f(x: f32[2, 8], w: f32[4, 8].constant):
            return aten.linear.default(x, w, None)
    After::
        def f(x: f32[2, 8], w: f32[4, 8].constant):
            y = aten.linear.default(aten.to.dtype(x, torch.bfloat16), aten.to.dtype(w, torch.bfloat16), None)
            return aten.to.dtype(y, torch.float32)
    Declines::
        def f(x: f32[2, 8], w: f32[4, 8]):
            return aten.linear.default(x, w, None)     # its weight is computed in each call
    Declines::
        def f(x: f32[2, 8], w: f32[4, 8].constant):
            return aten.linear.default(x.double(), w.double(), None)     # is not computed in f32
    """

    root = (aten.linear.default, aten.convolution.default)
    rounding = 0.1  # sums of some 30 products

    def match(self, node: Node) -> tuple:
        layer = view(node)
        assert isinstance(layer, (LinearView, ConvView))
        if any(dtype_of(operand) != torch.float32 for operand in layer[:2]):
            decline("is not computed in f32")
        if constant_view(layer.weight) is None and made_by(layer.weight) != "PoolFirst":
            decline("its weight is computed in each call")
        return node.target, layer

    def rewrite(self, b: Builder, target: Any, layer: LinearView | ConvView) -> Node:
        x, w = (b(aten.to.dtype, operand, torch.bfloat16) for operand in layer[:2])
        made = b(aten.to.dtype, b(target, x, w, None, *layer[3:]), torch.float32)
        if layer.bias is not None:
            dims = len(layer.stride) if isinstance(layer, ConvView) else 0
            bias = b(aten.reshape.default, layer.bias, [-1] + [1] * dims) if dims else layer.bias
            made = b(aten.add.Tensor, made, bias)
        return keep_strides(b, made)


class NarrowPool(Rule):
    """max_pool(f32(y))  →  f32(max_pool(y)) for y in bfloat16.

    Exact: widening is, and keeps the order. Half of the memory is read.

    Before::
        def f(x: f32[2, 3, 8, 8]):
            y = aten.to.dtype(x, torch.bfloat16)
            return F.max_pool2d(aten.to.dtype(y, torch.float32), 2)
    After::
        def f(x: f32[2, 3, 8, 8]):
            y = aten.to.dtype(x, torch.bfloat16)
            return aten.to.dtype(aten.max_pool2d.default(y, [2, 2], [2, 2], [0, 0]), torch.float32)
    Declines::
        def f(x: f32[2, 3, 8, 8]):
            return F.max_pool2d(aten.to.dtype(torch.relu(x), torch.float32), 2)     # its input was not narrow
    """

    root = MAX_POOLS

    def match(self, node: Node) -> tuple:
        pool = commuting(node)
        if not isinstance(pool, PoolView):
            decline("pools with dilation, ceil_mode or indices")
        wide = pool.input
        narrow = wide.args[0] if wide.target is aten.to.dtype else None
        if dtype_of(wide) != torch.float32 or dtype_of(narrow) != torch.bfloat16:
            decline("its input was not narrow")
        return pool, narrow

    def rewrite(self, b: Builder, pool: PoolView, narrow: Node) -> Node:
        return keep_strides(b, b(aten.to.dtype, b(aten.max_pool2d.default, narrow, *pool[1:]), torch.float32))


@cache
def multiplies_bf16(device: torch.device) -> bool:
    """Whether it has instructions for that: emulated, they took 6 to 9 times as long as f32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    if platform.machine().lower() in ("x86_64", "amd64"):
        return torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported()
    return torch.ops.mkldnn._is_mkldnn_bf16_supported()


def narrow_floats(gm: GraphModule) -> Report:
    """Every float layer that is left, on devices that multiply bfloat16, and the pooling of what it gives."""

    def fit(node: Node) -> bool:
        found = value(node)
        return isinstance(found, Tensor) and multiplies_bf16(found.device)

    report = apply_rules(gm, CANONICALIZE, only=lambda node: fit(node) and respellable(node))
    report.add(apply_rules(gm, (NarrowLayer(), NarrowPool()), only=fit))
    return report
