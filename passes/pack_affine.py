"""A batch norm and ReLU in front of a pack that no product feeds move into the pack kernel (blocks of a DenseNet)."""

from __future__ import annotations

import torch
from abcfx.passes._glue import NO_LIMIT, AffineView, NormView, acts_on_channels, clip_and_affine, of_channels
from abcfx.passes._rule import Rule, decline
from abcfx.passes.emit_bits import PACKS, PackView, pack_view
from torch.fx import Node

from abcfx.graph import Builder, dtype_of, shape_of

aten, abc_k = torch.ops.aten, torch.ops.abc_k


class AffineInPack(Rule):
    """pack(clip(g·x + h))  →  pack(x, g, h, low, high), g and h constants of each channel: a batch norm in eval mode.

    Holds since the kernel quantizes clip(x·g[c] + h[c], low, high), for all levels: a ReLU alone would vanish where
    the lowest level reaches up to 0, but levels are inputs that may change. A NaN passes the clip and packs as code 0,
    as before. g = γ/√(σ² + ε) and h = β - μ·g are made once (hoist.py); batch norm computes the same in another order:
    values are equal up to f32 rounding, and one beside a threshold may get the next code, as with FoldAffine.

    Before::
        def f(x: f32[2, 70, 3, 3], mean: f32[70].constant, var: f32[70].constant, s: f32[1], t: f32[1]):
            y = F.relu(F.batch_norm(x, mean, var, None, None, False, 0.1, 9.0))
            return abc_k.pack_image.default(y, s, t, 2, "coded", 1, [1, 1])
    After::
        def f(x: f32[2, 70, 3, 3], mean: f32[70].constant, var: f32[70].constant, s: f32[1], t: f32[1]):
            g = aten.rsqrt.default(aten.add.Scalar(var, 9.0))
            h = aten.neg.default(aten.mul.Tensor(mean, g))
            return abc_k.pack_image.default(x, s, t, 2, "coded", 1, [1, 1], g, h, 0.0, LIMIT)
    Before::
        def f(x: f32[5, 70], g: f32[70].constant, h: f32[70].constant, s: f32[1], t: f32[1]):
            return abc_k.pack_rows.default(torch.addcmul(h, x, g), s, t, 2, "coded")
    After::
        def f(x: f32[5, 70], g: f32[70].constant, h: f32[70].constant, s: f32[1], t: f32[1]):
            return abc_k.pack_rows.default(x, s, t, 2, "coded", g, h, -LIMIT, LIMIT)
    Declines::
        def f(x: f32[5, 70], g: f32[70].constant, h: f32[70].constant, s: f32[1], t: f32[1]):
            y = torch.addcmul(h, x, g)
            return abc_k.pack_rows.default(y, s, t, 2, "coded"), y     # has other readers
    Declines::
        def f(x: f32[5, 70], s: f32[1], t: f32[1]):
            return abc_k.pack_rows.default(torch.relu(x), s, t, 2, "coded")     # no per-channel affine in front
    """

    root = PACKS

    def match(self, node: Node) -> tuple:
        pack = pack_view(node) or decline("packs with an affine of its own")
        clip, found, passed = clip_and_affine(pack.input)
        if found is None:
            decline("no per-channel affine in front")
        low, high = (clip.low, clip.high) if clip is not None else (-NO_LIMIT, NO_LIMIT)
        if any(len(n.users) != 1 for n in passed[:-1]):
            decline("what the pack reads has other readers")
        if low >= high:
            decline("the limits of its clip are one value")
        shape = shape_of(found.input)
        if dtype_of(found.input) != torch.float32 or dtype_of(pack.input) != torch.float32:
            decline("is not computed in f32")
        if shape is None or not isinstance(shape[1], int) or not acts_on_channels(found, shape[1], 1):
            decline("an affine that does not act on the channels")
        return pack, found, shape[1], low, high

    def rewrite(
        self, b: Builder, pack: PackView, found: NormView | AffineView, channels: int, low: float, high: float
    ) -> Node:
        gain, offset = (of_channels(b, node, channels) for node in found.build(b))
        target = abc_k.pack_image.default if pack.layout else abc_k.pack_rows.default
        return b(target, found.input, *pack[1:5], *pack.layout, gain, offset, low, high)
