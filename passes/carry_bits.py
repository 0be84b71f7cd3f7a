"""Which values between layers travel as planes and which as floats: a minimum cut over the bytes moved.

Max pooling and concatenation of channels commute with quantizing, so the pack in front of a layer may move up through
them, where the product before can emit planes and no floats are written:

    pack(max_pool(x)) = max_pool_bits(pack(x))          pack(cat(x, y)) = cat(pack(x), pack(y))

Each such node runs on floats (side S of the cut) or on planes (side T). With F(v) = 4 bytes a value, B(v) = N bits a
value, what a side costs is

    node on floats: F(inputs) + F(output)      node on planes: B(inputs) + B(output)
    floats → planes between two nodes:  F(v) + B(v), or B(v) where a product emits v
    floats of a product that nobody else reads:  F(v), paid if a node on floats reads them

and never planes → floats, which would lose what quantizing dropped. The cut of least cost is found by networkx. Only a
NaN makes a difference: max pooling on floats passes it on, and it packs as code 0; on planes the others win.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import networkx as nx
import torch
import torch.nn.functional as F
from abcfx.passes._glue import bound_to
from abcfx.passes._product import product_of
from abcfx.passes._rule import Report, erase_pattern
from abcfx.passes.emit_bits import PackView, pack_view
from torch.fx import GraphModule, Node

from abcfx.graph import Builder, optimization_hint, shape_of, with_bodies

aten, abc_k = torch.ops.aten, torch.ops.abc_k
TYPICAL = 64  # of a symbolic size without a hint
WORD = 64


class PoolView(NamedTuple):
    """Max pooling in two dimensions without dilation or ceil_mode."""

    input: Node
    kernel: list[int]
    stride: list[int]
    padding: list[int]

    @property
    def inputs(self) -> list[Node]:
        return [self.input]


class CatView(NamedTuple):
    """Concatenation of channels, each part but the last of whole words."""

    inputs: list[Node]


def _max_pool(input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False):
    if return_indices or ceil_mode or _pair(dilation) != [1, 1]:
        return None
    return PoolView(input, _pair(kernel_size), _pair(stride or kernel_size), _pair(padding))


def _cat(tensors, dim=0):
    shapes = [shape_of(t) for t in tensors]
    if dim not in (1, -3) or any(s is None or len(s) != 4 for s in shapes):
        return None
    return CatView(list(tensors)) if all(s[1] % WORD == 0 for s in shapes[:-1]) else None  # type: ignore[index]


READERS = {
    F.max_pool2d: _max_pool, torch.max_pool2d: _max_pool, aten.max_pool2d.default: _max_pool,
    torch.cat: _cat, torch.concat: _cat, aten.cat.default: _cat,
}  # fmt: skip


def commuting(node: Any) -> PoolView | CatView | None:
    """The view of a node that can run on planes."""
    if not isinstance(node, Node) or node.op != "call_function" or len(shape_of(node) or ()) != 4:
        return None
    bound = bound_to(READERS.get(node.target), node)
    return None if bound is None else READERS[node.target](*bound.args, **bound.kwargs)


def carry_bits(gm: GraphModule, report: Report) -> None:
    """Move packs up where that moves fewer bytes."""
    for part in with_bodies(gm):
        for pack in [n for n in part.graph.nodes if n.op == "call_function" and n.target is abc_k.pack_image.default]:
            view = pack_view(pack)
            found = commuting(view.input) if view is not None else None
            if view is None or found is None:
                continue
            if isinstance(found, CatView) and view.layout[0] != 1:
                report.declined[pack.name] = "groups would not be whole parts of the concatenation"
                continue
            on_planes = cut(pack, view)
            if view.input not in on_planes:
                report.declined[pack.name] = "planes earlier would move more bytes than floats do"
                continue
            b = Builder(pack, "CarryBits")
            pack.replace_all_uses_with(_planes(b, view.input, view, list(view.layout[1]), on_planes))
            erase_pattern(pack)
            report.applied["CarryBits"] += 1
        part.graph.lint()
        part.recompile()


def _planes(b: Builder, node: Node, view: PackView, padding: list[int], on_planes: set[Node]) -> Node:
    """The planes of a value: of its node on planes, or packed from its floats."""
    found = commuting(node) if node in on_planes else None
    if isinstance(found, PoolView):
        below = _planes(b, found.input, view, [0, 0], on_planes)
        return b(
            abc_k.max_pool_bits.default, below, view.levels, found.kernel, found.stride, found.padding, [0, 0], padding
        )
    if isinstance(found, CatView):
        return b(aten.cat.default, [_planes(b, part, view, padding, on_planes) for part in found.inputs], -1)
    return b(abc_k.pack_image.default, node, view.scale, view.shift, view.planes, view.levels, view.layout[0], padding)


def cut(pack: Node, view: PackView) -> set[Node]:
    """The nodes above a pack that run on planes in the cheapest plan."""
    graph = nx.DiGraph()
    pending, seen = [view.input], {view.input}
    _into(graph, view.input, pack, _packing(view.input, view))
    while pending:
        node = pending.pop()
        found = commuting(node)
        if found is None:  # a leaf: its floats are there, or a product makes them
            graph.add_edge("floats", node, capacity=float("inf"))
            continue
        read = sum(_bytes(v, 32) for v in found.inputs), sum(_bytes(v, view.planes) for v in found.inputs)
        on_floats, on_planes = read[0] + _bytes(node, 32), read[1] + _bytes(node, view.planes)
        shared = len(set(node.users) - {pack} - seen) > 0
        graph.add_edge("floats", node, capacity=on_planes + (on_floats if shared else 0))
        graph.add_edge(node, "planes", capacity=on_floats)
        for value in found.inputs:
            _into(graph, value, node, _packing(value, view))
            if product_of(value) is not None and set(value.users) <= seen | {node}:
                graph.add_edge(node, ("floats of", value), capacity=float("inf"))
                graph.add_edge(("floats of", value), "planes", capacity=_bytes(value, 32))
            if value not in seen:
                seen.add(value)
                pending.append(value)
    graph.add_edge(pack, "planes", capacity=float("inf"))
    _, (_, planes_side) = nx.minimum_cut(graph, "floats", "planes")
    return {node for node in seen if node in planes_side and commuting(node) is not None}


def _into(graph: nx.DiGraph, value: Node, reader: Node, packing: float) -> None:
    """A reader on planes of a value on floats pays for packing it, once for all such readers."""
    graph.add_edge(value, ("planes of", value), capacity=packing)
    graph.add_edge(("planes of", value), reader, capacity=float("inf"))
    if commuting(value) is not None:  # a node on planes cannot feed one on floats
        graph.add_edge(reader, value, capacity=float("inf"))


def _packing(value: Node, view: PackView) -> float:
    emitted = product_of(value) is not None
    return _bytes(value, view.planes) + (0 if emitted else _bytes(value, 32))


def _bytes(node: Node, bits: int) -> float:
    return prod(optimization_hint(size, fallback=TYPICAL) for size in shape_of(node) or ()) * bits / 8


def _pair(value: Any) -> list[int]:
    return [value, value] if isinstance(value, int) else [value[0], value[-1]]
