"""A linear layer over the pixels of an image that a kernel makes reads its planes: no floats are flattened.

Planes of an image have the channels of a pixel in words of their own, [n, h, N, w, words], and rows [N, n, words] have
(c, h, w) in a row; so the layer becomes a convolution as large as the image, or keeps its rows if there is one pixel.
`carry_bits` and `emit_bits` then move the pack up. The rules come after those of fuse.py, which know rows of layers.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from abcfx.passes._commuting import commuting
from abcfx.passes._constants import is_written
from abcfx.passes._glue import is_constant
from abcfx.passes._product import TO_NCHW, ProductView, product_of, strip_copies, view
from abcfx.passes._rule import Rule, decline
from abcfx.passes.emit_bits import PackView, pack_view
from torch.fx import Node
from torch.fx.experimental.symbolic_shapes import statically_known_true

from abcfx.graph import Builder, shape_of

aten, abc_k = torch.ops.aten, torch.ops.abc_k
# What these give is decided by the two shapes alone: the same values in the same order.
_RESHAPES = {
    torch.flatten, "flatten", torch.reshape, "reshape", "view", torch.squeeze, "squeeze", torch.unsqueeze, "unsqueeze",
    aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.squeeze.dim, aten.squeeze.default,
    aten.squeeze.dims, aten.unsqueeze.default, aten._unsafe_view.default, "contiguous", aten.contiguous.default,
}  # fmt: skip


def reshaped(node: Any) -> Node:
    """The first of a row of reshapes that ends in `node`, itself if it is none; dropout in eval mode counts as one."""
    node = strip_copies(node)
    while node.op in ("call_function", "call_method") and node.target in _RESHAPES and isinstance(node.args[0], Node):
        if shape_of(node) is None or shape_of(node.args[0]) is None or is_written(node):
            break
        node = strip_copies(node.args[0])
    return node


def image_of(pack: PackView) -> tuple[Node, list[int]]:
    """(image, [channels, height, width]) that rows flatten, one row an image; declines if they are something else."""
    rows, image = shape_of(pack.input), reshaped(pack.input)
    sizes = shape_of(image)
    if image is pack.input or rows is None or sizes is None or len(sizes) != 4:
        decline("its rows are no flattened image")
    if not all(isinstance(size, int) for size in (*sizes[1:], rows[1])):
        decline("channels, height or width of the image are symbolic")
    if rows[1] != sizes[1] * sizes[2] * sizes[3] or not statically_known_true(rows[0] == sizes[0]):
        decline("its rows are other parts of the image than one image each")
    if not is_carried(image):
        decline("no kernel makes the image")
    return image, list(sizes[1:])


def is_carried(image: Node) -> bool:
    """Whether a product makes the image, perhaps through what can run on planes."""
    waiting = [image]
    while waiting:
        node = waiting.pop()
        if product_of(node) is not None:
            return True
        found = commuting(node)
        waiting += found.inputs if found is not None else []
    return False


def pack_of(node: Any) -> PackView:
    found = pack_view(node) if isinstance(node, Node) and node.target is abc_k.pack_rows.default else None
    return found if found is not None else decline("does not read rows that a pack makes")


class MergedReshapes(Rule):
    """pack_rows(reshape(…(x)))  →  pack_rows(x), x having the same rows.

    Holds since reshapes keep the values and their order, so that only the first and the last shape matter: dimensions
    of one, and leading ones that come and go. Exact.

    Before::
        def f(x: f32[6, 70], s: f32[1], t: f32[1]):
            y = torch.unsqueeze(aten.view.default(x, [2, 3, 70]), 0)
            return abc_k.pack_rows.default(aten.reshape.default(y, [-1, 70]), s, t, 2, "coded")
    After::
        def f(x: f32[6, 70], s: f32[1], t: f32[1]):
            return abc_k.pack_rows.default(x, s, t, 2, "coded")
    Declines::
        def f(x: f32[6, 70], s: f32[1], t: f32[1]):
            return abc_k.pack_rows.default(aten.view.default(x, [12, 35]), s, t, 2, "coded")   # rows are cut otherwise
    Declines::
        def f(x: f32[6, 70], s: f32[1], t: f32[1]):
            return abc_k.pack_rows.default(x, s, t, 2, "coded")   # no reshape in front
    """

    root = (abc_k.pack_rows.default,)

    def match(self, node: Node) -> tuple:
        pack = pack_view(node) or decline("packs with an affine of its own")
        first = reshaped(pack.input)
        if first is pack.input:
            decline("no reshape in front")
        before, after = shape_of(first), shape_of(pack.input)
        if before is None or after is None or len(before) != 2 or not statically_known_true(before[1] == after[1]):
            decline("its rows are cut otherwise")
        return pack, first

    def rewrite(self, b: Builder, pack: PackView, first: Node) -> Node:
        return b(abc_k.pack_rows.default, first, *pack[1:5])


class RowsOfPixels(Rule):
    """pack_rows(flatten(x))  →  the planes of x as rows, for an image x of one pixel that a kernel makes.

    Holds since quantizing acts on each value alone, and the words of a pixel are those of a row. Exact.

    Before::
        def f(a: i64[2, 1, 2, 1, 2], bits: i64[1, 3, 2, 2, 8].constant, alpha: f32[2, 20].constant,
              sums: f32[20, 1].constant, s: f32[1], t: f32[1]):
            y = abc_k.conv2d.default(a, bits, alpha, sums, None, s, t, "coded", 70, [1, 1], [1, 1], [0, 0], [1, 1], 1)
            x = aten.permute.default(y, [0, 3, 1, 2])
            return abc_k.pack_rows.default(torch.flatten(x, 1), s, t, 2, "coded")
    After::
        def f(a: i64[2, 1, 2, 1, 2], bits: i64[1, 3, 2, 2, 8].constant, alpha: f32[2, 20].constant,
              sums: f32[20, 1].constant, s: f32[1], t: f32[1]):
            y = abc_k.conv2d.default(a, bits, alpha, sums, None, s, t, "coded", 70, [1, 1], [1, 1], [0, 0], [1, 1], 1)
            x = aten.permute.default(y, [0, 3, 1, 2])
            planes = abc_k.pack_image.default(x, s, t, 2, "coded", 1, [0, 0])
            return aten.reshape.default(aten.permute.default(planes, [2, 0, 1, 3, 4]), [2, -1, 1])
    Declines::
        def f(x: f32[2, 20, 1, 1], s: f32[1], t: f32[1]):
            return abc_k.pack_rows.default(torch.flatten(x, 1), s, t, 2, "coded")   # no kernel makes the image
    """

    root = (abc_k.pack_rows.default,)

    def match(self, node: Node) -> tuple:
        pack = pack_view(node) or decline("packs with an affine of its own")
        image, (_channels, height, width) = image_of(pack)
        if height * width != 1:
            decline("the image has more than one pixel")
        return pack, image

    def rewrite(self, b: Builder, pack: PackView, image: Node) -> Node:
        planes = b(abc_k.pack_image.default, image, *pack[1:5], 1, [0, 0])
        rows = b(aten.permute.default, planes, [2, 0, 1, 3, 4])
        return b(aten.reshape.default, rows, [pack.planes, -1, shape_of(planes)[-1]])  # type: ignore[index]


class ConvolvedRows(Rule):
    """linear(pack_rows(flatten(x)))  →  conv2d(pack_image(x)) with the same weights, as large as the image x.

    Holds because Σ_k Ŵ[o, k]·flatten(x̂)[k] = Σ_tap Σ_c Ŵ[o, c, tap]·x̂[c, tap], tap = (row, column), is the one window
    of a convolution without padding; α stays, signs and tap sums are put into its order once (abc_k.rows_as_taps of
    constants, which hoist.py takes out of the graph). Equal up to the order of the f32 sums of levels and bias.

    Before::
        def f(a: i64[2, 3, 2, 2, 2], bits: i64[1, 3, 2, 2, 8].constant, alpha: f32[2, 20].constant,
              sums: f32[20, 1].constant, w: i64[1, 2, 2, 2, 8].constant, beta: f32[2, 9].constant,
              s: f32[1], t: f32[1]):
            y = abc_k.conv2d.default(a, bits, alpha, sums, None, s, t, "coded", 70, [1, 1], [1, 1], [0, 0], [1, 1], 1)
            x = aten.permute.default(y, [0, 3, 1, 2])
            rows = abc_k.pack_rows.default(torch.flatten(x, 1), s, t, 2, "coded")
            total = aten.unsqueeze.default(aten.sum.dim_IntList(beta, [0]), 1)
            return abc_k.linear.default(rows, w, beta, aten.mul.Tensor(total, 120.0), None, s, t, "coded", 120)
    After::
        def f(a: i64[2, 3, 2, 2, 2], bits: i64[1, 3, 2, 2, 8].constant, alpha: f32[2, 20].constant,
              sums: f32[20, 1].constant, w: i64[1, 2, 2, 2, 8].constant, beta: f32[2, 9].constant,
              s: f32[1], t: f32[1]):
            y = abc_k.conv2d.default(a, bits, alpha, sums, None, s, t, "coded", 70, [1, 1], [1, 1], [0, 0], [1, 1], 1)
            x = aten.permute.default(y, [0, 3, 1, 2])
            image = abc_k.pack_image.default(x, s, t, 2, "coded", 1, [0, 0])
            made = abc_k.rows_as_taps.default(w, beta, 20, 6)
            z = abc_k.conv2d.default(image, operator.getitem(made, 0), beta, operator.getitem(made, 1), None, s, t,
                                     "coded", 20, [3, 2], [1, 1], [0, 0], [1, 1], 1)
            return aten.reshape.default(aten.permute.default(z, [0, 3, 1, 2]), [-1, 9])
    Declines::
        def f(x: f32[2, 20, 3, 2], w: i64[1, 2, 2, 2, 8].constant, beta: f32[2, 9].constant, total: f32[9, 1].constant,
              s: f32[1], t: f32[1]):
            rows = abc_k.pack_rows.default(torch.flatten(x, 1), s, t, 2, "coded")
            return abc_k.linear.default(rows, w, beta, total, None, s, t, "coded", 120)      # no kernel makes the image
    Declines::
        def f(x: f32[2, 20, 3, 2], w: i64[1, 2, 2, 1, 8].constant, beta: f32[2, 9].constant, total: f32[9, 1].constant,
              s: f32[1], t: f32[1]):
            rows = abc_k.pack_rows.default(aten.view.default(x, [4, 60]), s, t, 2, "coded")
            return abc_k.linear.default(rows, w, beta, total, None, s, t, "coded", 60)    # other parts of the image
    """

    root = (abc_k.linear.default, operator.getitem)

    def match(self, node: Node) -> tuple:
        product = view(node)
        if product is None or product.is_conv:
            decline("no linear layer on planes")
        if product.next_planes:
            decline("the layer emits planes already")
        pack = pack_of(product.head[0])
        image, size = image_of(pack)
        if size[1] * size[2] == 1:
            decline("the image has one pixel")
        if not is_constant(product.head[1]) or not is_constant(product.head[2]):
            decline("its packed weight is no constant")
        return product, pack, image, size

    def rewrite(self, b: Builder, product: ProductView, pack: PackView, image: Node, size: list[int]) -> Node:
        channels, height, width = size
        _rows, weight_bits, alpha, _sums, bias, scale, shift, levels, _depth = product.head
        planes = b(abc_k.pack_image.default, image, *pack[1:5], 1, [0, 0])
        made = b(abc_k.rows_as_taps.default, weight_bits, alpha, channels, height * width)
        residual = product.residual
        if residual is not None:
            residual = b(aten.reshape.default, residual, [-1, 1, 1, product.outputs])
        taken, sums = b(operator.getitem, made, 0), b(operator.getitem, made, 1)
        geometry = ([height, width], [1, 1], [0, 0], [1, 1], 1)
        head = (planes, taken, alpha, sums, bias, scale, shift, levels, channels, *geometry)
        y = product._replace(head=head, residual=residual, nodes=()).build(b)
        return b(aten.reshape.default, b(aten.permute.default, y, TO_NCHW), [-1, product.outputs])


def reads_rows(node: Node) -> bool:
    """The nodes that these rules are about: packs of rows, and linear layers on planes."""
    product = view(node)
    return node.target is abc_k.pack_rows.default or (product is not None and not product.is_conv)


FLATTEN: tuple[Rule, ...] = (MergedReshapes(), RowsOfPixels(), ConvolvedRows())
