"""A graph made small enough to look at: boxes and lines. Constants go, shape changes melt into the lines around them.

Ops that a pass wrote out for one op (the quantizer of the dense form) become one box again.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass

import networkx as nx
import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from abcfx.explain.bits import BitGraph, is_kernel, planes_of
from abcfx.graph import CONSTANT, SITE, value
from abcfx.passes.lower import Lowered
from abcfx.passes.match_layers import qualified_name

# by the last part of a target's name: what moves values about, or copies them, and makes none
PLUMBING = {
    "permute", "reshape", "view", "squeeze", "unsqueeze", "to", "_to_copy", "clone", "contiguous", "flatten",
    "transpose", "t", "getitem", "expand", "detach", "alias", "dropout", "movedim",
}  # fmt: skip
LAYERS = {
    "linear",
    "conv1d",
    "conv2d",
    "conv3d",
    "convolution",
    "conv_transpose1d",
    "conv_transpose2d",
    "conv_transpose3d",
}


@dataclass(frozen=True)
class Box:
    """kind: "input", "output", "layer" (float), "quantized" (an abc:: op), "dense", "pack", "kernel" or "op"."""

    id: str
    label: str
    layer: str
    kind: str
    shape: str


@dataclass(frozen=True)
class Line:
    """bits: planes of a value that travels as bits, None for floats."""

    source: str
    target: str
    bits: int | None


@dataclass(frozen=True)
class Drawing:
    boxes: tuple[Box, ...]
    lines: tuple[Line, ...]


def draw(gm: GraphModule, lowered: Lowered | None = None) -> Drawing:
    """The graph of what depends on the model's inputs, in order; `lowered` tells which layer a kernel serves."""
    bits = BitGraph(gm, lowered or Lowered())
    shown = _depending_on_inputs(gm)
    group = {node: _group(node) for node in shown}
    first = {}
    for node in shown:
        first.setdefault(group[node], node)
    boxes, graph = {}, nx.DiGraph()
    for node in shown:
        key = group[node]
        members = [n for n in shown if group[n] == key] if key is not node else [node]
        if first[key] is node and not all(_is_plumbing(n) for n in members):
            boxes[key] = _box(members, bits, len(boxes))
    for node in shown:
        for source in node.all_input_nodes:
            if source in group and group[source] != group[node]:
                planes = bits.carries_bits(source) or None
                _connect(graph, group[source], group[node], planes and planes_of(source))
    _melt(graph, boxes)
    lines = [Line(boxes[a].id, boxes[b].id, data["bits"]) for a, b, data in graph.edges(data=True)]
    return Drawing(tuple(boxes.values()), tuple(lines))


def _depending_on_inputs(gm: GraphModule) -> list[Node]:
    """Inputs of the model that are no constants, and every op that has one of them above it."""
    found: dict[Node, None] = {}
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            is_weight = node.meta.get(CONSTANT) or "_dynamo_static_input_type" in (node.meta.get("tensor_dict") or {})
            if isinstance(value(node), Tensor) and not is_weight and not node.name.startswith("abc_"):
                found[node] = None
        elif any(source in found for source in node.all_input_nodes):
            found[node] = None
    return list(found)


def _group(node: Node) -> object:
    """Nodes that a pass wrote for one node are one box, but kernels are boxes of their own."""
    made = node.meta.get("abcfx")
    return node if made is None or is_kernel(node) or made["rule"] != "DenseLayer" else f"dense:{made['replaces']}"


def _name(node: Node) -> str:
    if node.op == "call_method":
        return str(node.target)
    target = node.target
    if isinstance(target, torch._ops.OpOverload):
        return target._schema.name.split("::")[1]
    return str(getattr(target, "__name__", target)).rpartition(".")[2]


def _is_plumbing(node: Node) -> bool:
    if node.op not in ("call_function", "call_method") or is_kernel(node):
        return False
    return node.target is operator.getitem or _name(node) in PLUMBING or not isinstance(value(node), (Tensor, tuple))


def _box(members: list[Node], bits: BitGraph, number: int) -> Box:
    node, last = members[0], members[-1]
    layer = next((str(n.meta[SITE]) for n in members if SITE in n.meta), "") or bits.layer_of_product(node) or ""
    made = value(last)
    several = [made] if isinstance(made, Tensor) else [t for t in made or () if isinstance(t, Tensor)]
    tensor = next((t for t in several if t.numel()), None)  # a kernel whose floats nobody wants gives an empty one
    shape = "" if tensor is None else f"{str(tensor.dtype).split('.')[-1]} {'×'.join(map(str, tensor.shape))}"
    kind, label = _kind(node, bits, len(members) > 1), node.name if node.op == "placeholder" else _name(node)
    if kind in ("layer", "quantized") and not layer:
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        layer = qualified_name(stack[-1][0]) if stack else ""
    if kind == "dense":
        label = next((_name(n) for n in members if _name(n) in LAYERS), "dense")
    label = label.replace("convolution", "conv").removesuffix("_") or label
    return Box(f"n{number}", "output" if node.op == "output" else label, layer, kind, shape)


def _kind(node: Node, bits: BitGraph, grouped: bool) -> str:
    if node.op in ("placeholder", "output"):
        return "input" if node.op == "placeholder" else "output"
    if grouped:
        return "dense"
    if bits.layer_of_product(node) is not None:
        return "kernel"
    if is_kernel(node):
        return "pack" if bits.carries_bits(node) else "kernel"
    if isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "abc":
        return "quantized"
    return "layer" if _name(node) in LAYERS else "op"


def _connect(graph: nx.DiGraph, source: object, target: object, bits: int | None) -> None:
    """One line between two boxes; it is marked if anything that it stands for carries bits."""
    before = graph.get_edge_data(source, target, {}).get("bits")
    graph.add_edge(source, target, bits=before if bits is None else bits)


def _melt(graph: nx.DiGraph, boxes: dict[object, Box]) -> None:
    """Take nodes without a box out, joining what stood around them; a joined line carries what its last part did."""
    for node in list(graph.nodes):
        if node not in boxes:
            for before in list(graph.predecessors(node)):
                for after in list(graph.successors(node)):
                    _connect(graph, before, after, graph.edges[node, after]["bits"])
            graph.remove_node(node)
