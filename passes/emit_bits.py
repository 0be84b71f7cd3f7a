"""A layer writes the planes that the next one reads: pack nodes move into the epilogue of the product before them.

    pack(clip(gain·y + offset))  with y the floats of a kernel product    →    the planes that this product emits

Between them may stand a clip and a per-channel affine (a batch norm in front of a layer), whose only reader is the
pack; the floats y are still written where somebody else reads them (a residual). One pack a product moves; others of
the same floats, with levels or padding of their own, stay.
"""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

import torch
from abcfx.passes._glue import NO_LIMIT, AffineView, ClipView, NormView, acts_on_channels, glue
from abcfx.passes._product import RESHAPES, ProductView, product_of, replayed
from abcfx.passes._rule import Declined, Report, decline, erase_pattern
from torch.fx import GraphModule, Node

from abcfx.graph import Builder, shape_of, with_bodies

aten, abc_k = torch.ops.aten, torch.ops.abc_k
PACKS = (abc_k.pack_image.default, abc_k.pack_rows.default)


class PackView(NamedTuple):
    """abc_k.pack_rows or abc_k.pack_image without an affine of its own, in schema order."""

    input: Node
    scale: Node
    shift: Node
    planes: int
    levels: str
    layout: tuple  # groups and padding of an image


class Chain(NamedTuple):
    """From a product to a pack: what stands between them."""

    pack: PackView
    product: ProductView
    layout: tuple[Node, ...]
    output: Node  # the product's floats in their final layout
    affine: NormView | AffineView | None
    low: float
    high: float


def emit_bits(gm: GraphModule, report: Report) -> None:
    """Move every pack that can move; what cannot is in report.declined."""
    for part in with_bodies(gm):
        for pack in [node for node in part.graph.nodes if node.op == "call_function" and node.target in PACKS]:
            try:
                _move(pack, chain_of(pack))
                report.applied["EmitBits"] += 1
            except Declined as declined:
                report.left(pack.name, str(declined))
        part.graph.lint()
        part.recompile()


def packs_of(gm: GraphModule) -> int:
    """How often a graph turns floats into planes outside a product."""
    return sum(node.op == "call_function" and node.target in PACKS for node in gm.graph.nodes)


def pack_view(node: Node) -> PackView | None:
    head = 5
    if len(node.args) > (head if node.target is abc_k.pack_rows.default else head + 2) or node.kwargs:
        return None
    return PackView(*node.args[:head], tuple(node.args[head:]))  # type: ignore[arg-type]


def chain_of(pack: Node) -> Chain:
    """What a pack reads, back to the product that makes it; declines if it is something else."""
    view = pack_view(pack)
    if view is None:
        decline("packs with an affine of its own")
    affine, low, high, node = _glue_above(view.input)
    reached = product_of(node)
    if reached is None:
        decline("does not read the f32 output of a kernel")
    product, layout = reached
    if product.next_planes:
        decline("the layer before emits planes for another reader")
    if any(len(inner.users) != 1 for inner in (*product.nodes, *layout) if inner is not node):
        decline("the floats of the layer before have readers in another layout")
    if product.is_conv != (pack.target is abc_k.pack_image.default):
        decline("rows and images have different layouts")
    if not product.is_conv and (shape_of(view.input) or (0,))[-1] != product.outputs:
        decline("the rows are cut otherwise")
    if affine is not None and not acts_on_channels(affine, product.outputs, product.channel_dim(node)):
        decline("an affine that does not act on the channels")
    return Chain(view, product, layout, node, affine, low, high)


def _glue_above(node: Any) -> tuple[NormView | AffineView | None, float, float, Any]:
    """(affine, low, high, what they act on): those between a pack and a product that nobody else reads."""
    if node.target in RESHAPES and product_of(node) is None and len(node.users) == 1:
        node = node.args[0]  # rows of a linear layer that were reshaped for it, and back
    affine, low, high = None, -NO_LIMIT, NO_LIMIT
    found = glue(node)
    if isinstance(found, ClipView) and product_of(node) is None and len(node.users) == 1:
        low, high, node = found.low, found.high, found.input
        found = glue(node)
    if isinstance(found, (NormView, AffineView)) and len(node.users) == 1:
        affine, node = found, found.input
    return affine, low, high, node


def _move(pack: Node, chain: Chain) -> None:
    """Rebuild the product where it stands, so that all its readers come after it."""
    view, product, first = chain.pack, chain.product, chain.product.nodes[0]
    for operand in [view.scale, view.shift, *_constants(chain)]:
        _move_before(operand, first)
    b = Builder(first, "EmitBits")
    between = _between(pack, chain)
    gain, offset = chain.affine.build(b) if chain.affine is not None else (None, None)
    keep = not set(chain.output.users) <= set(between)
    made = product._replace(
        gain=gain, offset=offset, next_low=chain.low, next_high=chain.high, next_scale=view.scale,
        next_shift=view.shift, next_planes=view.planes, next_levels=view.levels, next_layout=view.layout, keep=keep,
    ).emit(b)  # fmt: skip
    pack.replace_all_uses_with(b(operator.getitem, made, 1))
    for node in between:  # glue that writes in place among them: nobody else sees what it writes (passes/_glue.py)
        node.graph.erase_node(node)
    if keep:
        chain.output.replace_all_uses_with(replayed(b, b(operator.getitem, made, 0), chain.layout))
    erase_pattern(chain.output)


def _between(pack: Node, chain: Chain) -> list[Node]:
    """The pack and what stands between it and the product's floats, last first."""
    nodes, node = [pack], pack.args[0]
    while isinstance(node, Node) and node is not chain.output:
        nodes.append(node)
        found = glue(node)
        node = found.input if isinstance(found, (ClipView, NormView, AffineView)) else node.args[0]
    return nodes


def _constants(chain: Chain) -> list[Any]:
    return [p for p in chain.affine[1:5] if isinstance(p, Node)] if chain.affine is not None else []


def _move_before(node: Node, first: Node) -> None:
    """Constants may be computed late in the graph: bring them, and what they are made of, in front of `first`."""
    if node.op in ("placeholder", "get_attr") or node < first:
        return
    for argument in node.all_input_nodes:
        _move_before(argument, first)
    first.prepend(node)
