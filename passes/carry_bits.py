"""Which values between layers travel as planes and which as floats: a minimum cut over the bytes moved.

Max pooling, concatenation and slices of channels commute with quantizing, so the pack in front of a layer may move up
through them, where the product before can emit planes and no floats are written:

    pack(max_pool(x)) = max_pool_bits(pack(x))          pack(cat(x, y)) = cat(pack(x), pack(y))
    pack(x[:, 64:128]) = word 1 of pack(x)

Each such node runs on floats (side S of the cut) or on planes (side T). With F(v) = 4 bytes a value, B(v) = N bits a
value, what a side costs is

    node on floats: F(inputs) + F(output)      node on planes: B(inputs) + B(output)
    slice on floats: 0, it is a view           slice on planes: 2 B(output), it is copied
    floats → planes between two nodes:  F(v) + B(v), or B(v) where a product emits v
    floats of a product that nobody else reads:  F(v), paid if a node on floats reads them

and never planes → floats, which would lose what quantizing dropped. The cut of least cost is found by networkx. Only a
NaN makes a difference: max pooling on floats passes it on, and it packs as code 0; on planes the others win.
"""

from __future__ import annotations

from math import prod
from typing import Any

import networkx as nx
import torch
from abcfx.passes import drop_pools
from abcfx.passes._commuting import (
    CatView,
    Commuting,
    PoolView,
    SliceView,
    channels_of,
    commuting,
    readers,
    whole_words,
)
from abcfx.passes._constants import is_written
from abcfx.passes._product import product_of
from abcfx.passes._rule import Report, erase_pattern
from abcfx.passes.emit_bits import PackView, pack_view
from torch.fx import GraphModule, Node

from abcfx.graph import Builder, optimization_hint, shape_of, with_bodies

aten, abc_k = torch.ops.aten, torch.ops.abc_k
TYPICAL = 64  # of a symbolic size without a hint


def carry_bits(gm: GraphModule, report: Report) -> None:
    """Move packs up where that moves fewer bytes."""
    for part in with_bodies(gm):
        for pack in [n for n in part.graph.nodes if n.op == "call_function" and n.target is abc_k.pack_image.default]:
            view = pack_view(pack)
            found = commuting(view.input) if view is not None else None
            if view is None or found is None:
                if view is not None and (reason := _reason(view.input)):
                    report.declined[pack.name] = reason
                continue
            if movable(view.input, view) is None:
                report.declined[pack.name] = "groups would not be whole parts of the concatenation or slice"
                continue
            on_planes = cut(pack, view)
            if view.input not in on_planes:
                report.declined[pack.name] = "planes earlier would move more bytes than floats do"
                continue
            b = Builder(pack, "CarryBits")
            pack.replace_all_uses_with(_planes(b, view.input, view, list(view.layout[1]), on_planes))
            erase_pattern(pack)
            report.applied["CarryBits"] += 1
        _share(part)
        part.graph.lint()
        part.recompile()


def movable(node: Node, view: PackView) -> Commuting | None:
    """The view of a node that can run on these planes: groups are no whole parts where channels are cut or joined."""
    found = commuting(node)
    return found if isinstance(found, PoolView) or view.layout[0] == 1 else None


def _reason(node: Any) -> str | None:
    """Why what a pack reads cannot run on planes, where that is worth saying."""
    if not isinstance(node, Node):
        return None
    if node.target in drop_pools.READERS:
        return "average pooling mixes values: quantize(mean(x)) is not the mean of quantize(x)"
    cut = channels_of(node)
    if cut is not None and not whole_words(cut):
        return f"channels {cut.begin} to {cut.end} of {shape_of(cut.input)[1]} are not whole words"  # type: ignore[index]
    return None


def _share(part: GraphModule) -> None:
    """One pack for all who read the same floats with the same levels and padding."""
    first: dict[tuple, Node] = {}
    for node in list(part.graph.nodes):
        if node.op != "call_function" or node.target is not abc_k.pack_image.default or is_written(node.args[0]):
            continue
        key = tuple(tuple(a) if isinstance(a, list) else a for a in node.args)
        if key in first:
            node.replace_all_uses_with(first[key])
            part.graph.erase_node(node)
        else:
            first[key] = node


def _planes(b: Builder, node: Node, view: PackView, padding: list[int], on_planes: set[Node]) -> Node:
    """The planes of a value: of its node on planes, or packed from its floats."""
    found = movable(node, view) if node in on_planes else None
    if isinstance(found, PoolView):
        below = _planes(b, found.input, view, [0, 0], on_planes)
        return b(
            abc_k.max_pool_bits.default, below, view.levels, found.kernel, found.stride, found.padding, [0, 0], padding
        )
    if isinstance(found, CatView):
        return b(aten.cat.default, [_planes(b, part, view, padding, on_planes) for part in found.inputs], -1)
    if isinstance(found, SliceView):
        return b(aten.slice.Tensor, _planes(b, found.input, view, padding, on_planes), -1, *found.words)
    return b(abc_k.pack_image.default, node, view.scale, view.shift, view.planes, view.levels, view.layout[0], padding)


def cut(pack: Node, view: PackView) -> set[Node]:
    """The nodes above a pack that run on planes in the cheapest plan."""
    graph = nx.DiGraph()
    pending, seen = [view.input], {view.input}
    _into(graph, view.input, pack, view)
    while pending:
        node = pending.pop()
        found = movable(node, view)
        if found is None:  # a leaf: its floats are there, or a product makes them
            graph.add_edge("floats", node, capacity=float("inf"))
            continue
        on_floats, on_planes = _moved(node, found, 32), _moved(node, found, view.planes)
        shared = len(readers(node) - {pack} - seen) > 0
        graph.add_edge("floats", node, capacity=on_planes + (on_floats if shared else 0))
        graph.add_edge(node, "planes", capacity=on_floats)
        for value in found.inputs:
            _into(graph, value, node, view)
            if product_of(value) is not None and readers(value) <= seen | {node}:
                graph.add_edge(node, ("floats of", value), capacity=float("inf"))
                graph.add_edge(("floats of", value), "planes", capacity=_bytes(value, 32))
            if value not in seen:
                seen.add(value)
                pending.append(value)
    graph.add_edge(pack, "planes", capacity=float("inf"))
    _, (_, planes_side) = nx.minimum_cut(graph, "floats", "planes")
    return {node for node in seen if node in planes_side and movable(node, view) is not None}


def _into(graph: nx.DiGraph, value: Node, reader: Node, view: PackView) -> None:
    """A reader on planes of a value on floats pays for packing it, once for all such readers."""
    graph.add_edge(value, ("planes of", value), capacity=_packing(value, view))
    graph.add_edge(("planes of", value), reader, capacity=float("inf"))
    if movable(value, view) is not None:  # a node on planes cannot feed one on floats
        graph.add_edge(reader, value, capacity=float("inf"))


def _moved(node: Node, found: Commuting, bits: int) -> float:
    """Bytes that a node moves on values of so many bits. A slice is a view of floats, and a copy of words."""
    if isinstance(found, SliceView):
        return 0.0 if bits == 32 else 2 * _bytes(node, bits)
    return sum(_bytes(v, bits) for v in found.inputs) + _bytes(node, bits)


def _packing(value: Node, view: PackView) -> float:
    """Bytes of making the planes of a value; a product emits one kind of them, for the first pack that asks."""
    asked = [pack_view(user) for user in value.users if user.target is abc_k.pack_image.default]
    emitted = product_of(value) is not None and all(p is not None and p[1:5] == view[1:5] for p in asked)
    return _bytes(value, view.planes) + (0 if emitted else _bytes(value, 32))


def _bytes(node: Node, bits: int) -> float:
    return prod(optimization_hint(size, fallback=TYPICAL) for size in shape_of(node) or ()) * bits / 8

