"""Kernel products take over what follows them: per-channel affines, additions, clips, PReLU, and the next layer's pack.

Rules on kernel nodes, applied until none applies; `emit_bits` then lets a layer write the planes that the next one
reads, so that consecutive layers exchange bits. Everything made of constants alone (folded scales) is computed once
(passes/hoist.py). Values change only by the rounding of f32: batch norm is multiplied into α before the sum, not after.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from abcfx.passes._glue import (
    ADDS,
    CLIPS,
    NORMS,
    SLOPES,
    AddView,
    AffineView,
    ClipView,
    NormView,
    SlopeView,
    acts_on_channels,
    glue,
    vector,
)
from abcfx.passes._product import ProductView, product_of, replayed
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from abcfx.passes.carry_bits import carry_bits
from abcfx.passes.drop_pools import IdentityPool
from abcfx.passes.emit_bits import emit_bits
from abcfx.passes.flatten_bits import FLATTEN, reads_rows
from abcfx.passes.one_layout import one_layout
from abcfx.passes.pack_affine import AffineInPack
from abcfx.passes.pool_first import pool_first
from abcfx.passes.rewrite_abc import keep_strides
from torch.fx import GraphModule, Node

from abcfx.debug import skips
from abcfx.graph import Builder, dtype_of, shape_of

aten = torch.ops.aten


class Found(NamedTuple):
    """A product, and the layout nodes (permute, reshape) between it and the pattern."""

    product: ProductView
    layout: tuple[Node, ...]


def fusible(node: Any) -> Found:
    """The product that makes `node`, if nobody else reads it; declines otherwise."""
    found = product_of(node)
    if found is None:
        decline("not the f32 output of a kernel")
    product, layout = found
    if any(len(n.users) != 1 for n in (*layout, *product.nodes)):
        decline("the output of the kernel has other readers")
    if product.next_planes:
        decline("the kernel emits planes already")
    return Found(product, layout)


def finish(b: Builder, found: Found, product: ProductView) -> Node:
    """The output of `product` in the layout that the replaced node had."""
    return keep_strides(b, replayed(b, product.build(b), found.layout))


class FoldAffine(Rule):
    """batch norm, or any per-channel affine, after a product  →  the same product with other α, tap sums and bias.

    Holds because g·(Σ_p Σ_q α_p β_q B_p·A_q + c·S + bias) + h has α' = g·α, S' = g·S (S the tap sums, which carry the
    levels' constant and the padding) and bias' = g·bias + h. For batch norm g = γ/√(σ² + ε) and h = β - μ·g.

    Before::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1], mean: f32[16].constant, var: f32[16].constant):
            y = abc_k.linear.default(x, bits, alpha, sums, None, s, t, "coded", 70)
            return F.batch_norm(y, mean, var, None, None, False, 0.1, 9.0)
    After::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1], mean: f32[16].constant, var: f32[16].constant):
            g = aten.rsqrt.default(aten.add.Scalar(var, 9.0))
            h = aten.neg.default(aten.mul.Tensor(mean, g))
            scaled = aten.mul.Tensor(alpha, g)
            return abc_k.linear.default(x, bits, scaled, aten.mul.Tensor(sums, aten.unsqueeze.default(g, 1)), h, s, t,
                                        "coded", 70)
    Declines::
        def f(x: f32[4, 16], mean: f32[16].constant, var: f32[16].constant):
            return F.batch_norm(x, mean, var, None, None, False, 0.1, 9.0)     # not the f32 output of a kernel
    """

    root = NORMS

    def match(self, node: Node) -> tuple:
        view = glue(node)
        if not isinstance(view, (NormView, AffineView)):
            decline("not a per-channel affine with constants")
        found = fusible(view.input)
        product = found.product
        if product.has_epilogue:
            decline("comes after a clip or an addition")
        if not acts_on_channels(view, product.outputs, product.channel_dim(view.input)):
            decline("does not act on the output channels")
        return view, found

    def rewrite(self, b: Builder, view: NormView | AffineView, found: Found) -> Node:
        return finish(b, found, found.product.scaled(b, *view.build(b)))


class FuseAdd(Rule):
    """product + another tensor of the same shape  →  the product with a residual, added while its tile is in the cache.

    Holds since the sum is the same f32 addition, in another place.

    Before::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1], r: f32[4, 16]):
            return torch.add(r, abc_k.linear.default(x, bits, alpha, sums, None, s, t, "coded", 70))
    After::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1], r: f32[4, 16]):
            both = abc_k.linear_emit.default(x, bits, alpha, sums, None, s, t, "coded", 70, r, None, -LIMIT, LIMIT,
                                             None, None, -LIMIT, LIMIT, None, None, 0, "coded", True)
            return operator.getitem(both, 0)
    Declines::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1], r: f32[16]):
            return torch.add(abc_k.linear.default(x, bits, alpha, sums, None, s, t, "coded", 70), r)  # broadcast
    """

    root = ADDS

    def match(self, node: Node) -> tuple:
        view = glue(node)
        if not isinstance(view, AddView):
            decline("not a plain addition of two tensors")
        reason = "not the f32 output of a kernel"
        for made, other in ((view.a, view.b), (view.b, view.a)):
            found = product_of(made)
            if found is None or made is other:
                continue
            found = fusible(made)
            if found.product.has_epilogue:
                reason = "comes after a clip or another addition"
            elif shape_of(made) != shape_of(other):
                reason = "the operands broadcast"
            elif dtype_of(other) != torch.float32:
                reason = f"the other operand is {dtype_of(other)}"
            else:
                return found, other
        decline(reason)

    def rewrite(self, b: Builder, found: Found, other: Node) -> Node:
        product = found.product
        return finish(b, found, product._replace(residual=product.as_operand(b, other)))


class FuseClip(Rule):
    """ReLU, ReLU6, hardtanh or clamp after a product  →  the product with limits.

    Holds since the kernel compares the same f32 values; a NaN passes both.

    Before::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1]):
            return F.relu6(abc_k.linear.default(x, bits, alpha, sums, None, s, t, "coded", 70))
    After::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1]):
            both = abc_k.linear_emit.default(x, bits, alpha, sums, None, s, t, "coded", 70, None, None, 0.0, 6.0,
                                             None, None, -LIMIT, LIMIT, None, None, 0, "coded", True)
            return operator.getitem(both, 0)
    Declines::
        def f(x: f32[4, 16]):
            return F.relu6(x)     # not the f32 output of a kernel
    """

    root = CLIPS

    def match(self, node: Node) -> tuple:
        view = glue(node)
        if not isinstance(view, ClipView):
            decline("not a clip by two numbers")
        found = fusible(view.input)
        if found.product.clips:
            decline("comes after another clip")
        return view, found

    def rewrite(self, b: Builder, view: ClipView, found: Found) -> Node:
        return finish(b, found, found.product._replace(low=view.low, high=view.high))


class FuseSlope(Rule):
    """PReLU with a constant slope after a product  →  the product with that slope.

    Holds since the kernel computes the same x > 0 ? x : x·slope[c].

    Before::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1], p: f32[16].constant):
            return F.prelu(abc_k.linear.default(x, bits, alpha, sums, None, s, t, "coded", 70), p)
    After::
        def f(x: i64[2, 4, 2], bits: i64[1, 2, 2, 2, 8].constant, alpha: f32[2, 16].constant, sums: f32[16, 1].constant,
              s: f32[1], t: f32[1], p: f32[16].constant):
            both = abc_k.linear_emit.default(x, bits, alpha, sums, None, s, t, "coded", 70, None,
                                             aten.expand.default(p, [16]), -LIMIT, LIMIT,
                                             None, None, -LIMIT, LIMIT, None, None, 0, "coded", True)
            return operator.getitem(both, 0)
    Declines::
        def f(x: f32[4, 16], p: f32[16].constant):
            return F.prelu(x, p)     # not the f32 output of a kernel
    """

    root = SLOPES

    def match(self, node: Node) -> tuple:
        view = glue(node)
        if not isinstance(view, SlopeView):
            decline("its slope is not a constant")
        found = fusible(view.input)
        product = found.product
        if product.slope is not None or product.clips:
            decline("comes after another activation")
        if not acts_on_channels(view, product.outputs, product.channel_dim(view.input)):
            decline("does not act on the output channels")
        return view, found

    def rewrite(self, b: Builder, view: SlopeView, found: Found) -> Node:
        slope = b(aten.expand.default, vector(b, view.slope), [found.product.outputs])
        return finish(b, found, found.product._replace(slope=slope))


FUSE: tuple[Rule, ...] = (FoldAffine(), FuseAdd(), FuseClip(), FuseSlope())


def fuse(gm: GraphModule) -> Report:
    """Apply the rules, move packs up where that is cheaper, then let layers emit planes for the next one.

    What is left to pack takes the batch norm in front of it along; then all of it gets one layout.
    """
    report = apply_rules(gm, (IdentityPool(), *FUSE))
    report.add(pool_first(gm))
    report.add(apply_rules(gm, FLATTEN, only=reads_rows))
    for name, move in (("CarryBits", carry_bits), ("EmitBits", emit_bits)):
        if not skips(name):
            move(gm, report)
    report.add(apply_rules(gm, (AffineInPack(),)))
    if not skips("OneLayout"):
        one_layout(gm, report)
    return report
