"""What follows a float convolution comes after the max pooling behind it: on a quarter of the pixels, and in one loop.

Stems of ResNets and DenseNets are conv → batch norm → ReLU → max pool. A compiler writes the ReLU to memory for the
pooling to read it again; pooled first, the output of the convolution is read once, and as it is: with narrow_floats.py
in bfloat16.
"""

from __future__ import annotations

import torch
from abcfx.passes._commuting import MAX_POOLS, PoolView, commuting
from abcfx.passes._constants import constant_view
from abcfx.passes._glue import (
    NO_LIMIT,
    AffineView,
    ClipView,
    NormView,
    acts_on_channels,
    clip_and_affine,
    of_channels,
)
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from abcfx.passes.canonicalize import CANONICALIZE
from abcfx.passes.emit_bits import PACKS
from abcfx.passes.rewrite_abc import keep_strides
from torch import Tensor
from torch.fx import GraphModule, Node

from abcfx.graph import Builder, ConvView, dtype_of, shape_of, value, view, with_bodies

aten = torch.ops.aten


class PoolFirst(Rule):
    """max_pool(clip(g·(conv(x, w) + bias) + h))  →  clip(|g|·max_pool(conv(x, s·w)) + (g·bias + h)),  s = sign of g.

    Holds since rounding, clips and t ↦ |g|·t + h are monotone, so that they commute with a maximum, and s·w has the
    products of w with another sign: exact but for the order of a batch norm's own operations, and a bias. A NaN stays
    in its windows. s, |g| and g·bias + h are made once (hoist.py).

    Before::
        def f(x: f32[2, 3, 8, 8], w: f32[4, 3, 3, 3].constant, g: f32[4, 1, 1].constant, h: f32[4, 1, 1].constant):
            y = aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            return F.max_pool2d(F.relu(torch.addcmul(h, y, g)), 3, 2, 1)
    After::
        def f(x: f32[2, 3, 8, 8], w: f32[4, 3, 3, 3].constant, g: f32[4, 1, 1].constant, h: f32[4, 1, 1].constant):
            gain, offset = aten.reshape.default(g, [-1]), aten.reshape.default(h, [-1])
            sign = aten.copysign.Tensor(aten.ones_like.default(gain), gain)
            turned = aten.mul.Tensor(w, aten.reshape.default(sign, [-1, 1, 1, 1]))
            y = aten.convolution.default(x, turned, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            y = aten.max_pool2d.default(y, [3, 3], [2, 2], [1, 1])
            magnitude = aten.reshape.default(aten.abs.default(gain), [-1, 1, 1])
            return aten.relu.default(aten.addcmul.default(aten.reshape.default(offset, [-1, 1, 1]), y, magnitude))
    Before::
        def f(x: f32[2, 3, 8, 8], w: f32[4, 3, 3, 3].constant):
            y = aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            return F.max_pool2d(F.relu6(y), 2)
    After::
        def f(x: f32[2, 3, 8, 8], w: f32[4, 3, 3, 3].constant):
            y = aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            return aten.clamp.default(aten.max_pool2d.default(y, [2, 2], [2, 2], [0, 0]), 0.0, 6.0)
    Declines::
        def f(x: f32[2, 3, 8, 8], w: f32[4, 3, 3, 3].constant):
            y = F.relu(aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1))
            return F.max_pool2d(y, 2), y     # has other readers
    Declines::
        def f(x: f32[2, 3, 8, 8]):
            return F.max_pool2d(F.relu(x), 2)     # no float convolution in front
    """

    root = MAX_POOLS

    def match(self, node: Node) -> tuple:
        pool = commuting(node)
        if not isinstance(pool, PoolView):
            decline("pools with dilation, ceil_mode or indices")
        clip, affine, passed = clip_and_affine(pool.input)
        layer = view(passed[-1]) if isinstance(passed[-1], Node) else None
        if not isinstance(layer, ConvView) or layer.transposed:
            decline("no float convolution in front")
        if clip is None and affine is None:
            decline("the convolution is pooled already")
        if pool.stride == [1, 1]:
            decline("the pooling leaves as many pixels")
        if any(len(n.users) != 1 for n in passed):
            decline("has other readers")
        if all(user.target in PACKS for user in node.users):
            decline("only packs read it: affine and clip go into them, and planes are pooled (carry_bits.py)")
        if dtype_of(passed[-1]) != torch.float32 or constant_view(layer.weight) is None:
            decline("the convolution is not in f32, or its weight is computed in each call")
        channels = shape_of(layer.weight)[0]  # type: ignore[index]
        if affine is not None and not acts_on_channels(affine, channels, 1):
            decline("the affine does not act on the channels")
        return pool, clip, affine, layer, channels

    def rewrite(
        self, b: Builder, pool: PoolView, clip: ClipView | None, affine: NormView | AffineView | None,
        layer: ConvView, channels: int,
    ) -> Node:  # fmt: skip
        if affine is None:
            made = self._pooled(b, layer, pool)
        else:
            gain, offset = (of_channels(b, found, channels) for found in affine.build(b))
            sign = b(aten.copysign.Tensor, b(aten.ones_like.default, gain), gain)
            if layer.bias is not None:
                offset = b(aten.addcmul.default, offset, gain, layer.bias)
            turned = b(aten.mul.Tensor, layer.weight, b(aten.reshape.default, sign, [-1, 1, 1, 1]))
            made = self._pooled(b, layer._replace(weight=turned, bias=None), pool)
            magnitude = b(aten.reshape.default, b(aten.abs.default, gain), [-1, 1, 1])
            made = b(aten.addcmul.default, b(aten.reshape.default, offset, [-1, 1, 1]), made, magnitude)
        if clip is not None:
            relu = (clip.low, clip.high) == (0.0, NO_LIMIT)
            made = b(aten.relu.default, made) if relu else b(aten.clamp.default, made, clip.low, clip.high)
        return keep_strides(b, made)

    def _pooled(self, b: Builder, layer: ConvView, pool: PoolView) -> Node:
        return b(aten.max_pool2d.default, b(aten.convolution.default, *layer), *pool[1:])


def pool_first(gm: GraphModule) -> Report:
    """Apply it to every pooling, having given the convolutions in front the spelling that it knows."""
    pools = [commuting(node) for part in with_bodies(gm) for node in part.graph.nodes if node.target in MAX_POOLS]
    wanted = {clip_and_affine(pool.input)[-1][-1] for pool in pools if isinstance(pool, PoolView)}
    report = apply_rules(gm, CANONICALIZE, only=lambda node: node in wanted and respellable(node))
    report.add(apply_rules(gm, (PoolFirst(),)))
    return report


def respellable(node: Node) -> bool:
    """Whether the canonical spelling of a float layer is the same op with the same strides: not where even kernels pad
    more behind than in front, nor for complex numbers."""
    found = value(node)
    return isinstance(found, Tensor) and found.is_floating_point() and "same" not in (*node.args, *node.kwargs.values())
