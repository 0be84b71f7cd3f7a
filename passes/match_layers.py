"""Finding layers: reads only. Every layer is listed, also those that stay float, each of these with a reason."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

import torch
import torch.nn.functional as F
from abcfx.passes._constants import constant_shape, constant_view
from torch.fx import GraphModule, Node

from abcfx.graph import ConvView, LinearView, attribute, bodies, dtype_of, shape_of, view, with_bodies
from abcfx.plan import LayerSite

# Ops that hold a weight matrix but have no float layer op to replace: kind, position of a weight, why they stay float
OPAQUE = {
    F.multi_head_attention_forward: (
        "multi_head_attention",
        5,
        "multi_head_attention_forward is one opaque op; nn.Linear and F.scaled_dot_product_attention are not",
    ),
    F.bilinear: ("bilinear", 2, "bilinear has two activations: no binary form"),
    torch.bilinear: ("bilinear", 2, "bilinear has two activations: no binary form"),
}
COMPUTED = (
    "its weight is computed in the graph ({how}), so it cannot be packed once; make it a plain Parameter "
    "(torch.nn.utils.parametrize.remove_parametrizations, or remove_weight_norm)"
)


class GraphSite(NamedTuple):
    """A LayerSite and the node that computes it, in `graph_module` (the graph or one of its checkpoint bodies)."""

    site: LayerSite
    node: Node
    graph_module: GraphModule

    def weight_base(self, gm: GraphModule) -> Node:
        """The node of `gm`, the whole graph, that the weight is a view of, seen through checkpoint bodies."""
        return _base_seen_from(gm, self.graph_module, view(self.node).weight)


def _base_seen_from(gm: GraphModule, owner: GraphModule, weight: Node) -> Node:
    if gm is owner:
        return constant_view(weight).base
    for call, body in bodies(gm):
        if any(part is owner for part in with_bodies(body)):
            base = _base_seen_from(body, owner, weight)
            operands = dict(zip(body.graph.find_nodes(op="placeholder"), call.args[1:], strict=True))
            return constant_view(operands[base]).base if base in operands else base
    raise ValueError(f"the graph of {weight} is not part of this one")


def match_layers(gm: GraphModule) -> list[GraphSite]:
    """Layers of a canonical graph in execution order, checkpoint bodies included. Names are unique.

    A site is named after its weight, without the trailing `.weight`; a weight used again gets `name#2`.
    """
    found: list[GraphSite] = []
    taken: set[str] = set()
    for name, kind, reason, node, owner in _layers(gm, {}):
        unique, count = name, 1
        while unique in taken:
            count += 1
            unique = f"{name}#{count}"
        taken.add(unique)
        layer = view(node)
        weight = _weight_shape(layer.weight) if isinstance(layer, (LinearView, ConvView)) else _opaque_weight(node)
        groups = layer.groups if isinstance(layer, ConvView) else 1
        found.append(GraphSite(LayerSite(unique, kind, weight or (), groups, reason), node, owner))
    return found


def _layers(gm: GraphModule, outer: Mapping[Node, str]) -> Iterator[tuple[str, str, str | None, Node, GraphModule]]:
    """(name, kind, reason, node, graph module) of each layer; `outer` names the placeholders of a body."""
    inside = dict(bodies(gm))
    for node in gm.graph.nodes:
        layer = view(node)
        if isinstance(layer, (LinearView, ConvView)):
            yield weight_name(layer.weight, node, outer), kind_of(layer), _reason(layer), node, gm
        elif node.op == "call_function" and node.target in OPAQUE:
            kind, position, reason = OPAQUE[node.target]
            weight = node.args[position] if len(node.args) > position else node.kwargs.get("weight")
            yield weight_name(weight, node, outer), kind, reason, node, gm
        elif node in inside:
            body = inside[node]
            operands = zip(body.graph.find_nodes(op="placeholder"), node.args[1:], strict=True)
            yield from _layers(body, {p: weight_name(a, p, outer) for p, a in operands if isinstance(a, Node)})
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            yield from _unreachable(gm, node)


def _unreachable(gm: GraphModule, call: Node) -> Iterator[tuple[str, str, str, Node, GraphModule]]:
    """Layers in the body of an operator (torch.cond, a custom autograd function …) that the passes do not enter."""
    reason = f"it is inside {call.target}, whose body is left as it is"
    for argument in call.all_input_nodes:
        body = attribute(gm, str(argument.target)) if argument.op == "get_attr" else None
        if isinstance(body, GraphModule):
            for node in body.graph.nodes:
                if node.op == "call_function" and getattr(node.target, "__name__", "") in _SPELLINGS:
                    yield node.name, _SPELLINGS[node.target.__name__], reason, node, body


_SPELLINGS = {name: name for name in ("linear", "conv1d", "conv2d", "conv3d")} | {
    name: name for name in ("conv_transpose1d", "conv_transpose2d", "conv_transpose3d")
}


def kind_of(layer: LinearView | ConvView) -> str:
    """ "linear", "conv2d", "conv_transpose1d" …: the name torch.nn.functional gives it."""
    if isinstance(layer, LinearView):
        return "linear"
    return f"conv{'_transpose' if layer.transposed else ''}{len(layer.stride)}d"


def _reason(layer: LinearView | ConvView) -> str | None:
    """Why a layer must stay float, or None."""
    if constant_view(layer.weight) is None:
        how = getattr(layer.weight.target, "__name__", str(layer.weight.target))
        return COMPUTED.format(how=how)
    dtype, shape = dtype_of(constant_view(layer.weight).base), _weight_shape(layer.weight)
    if dtype is not None and not dtype.is_floating_point:
        return f"its weight is {dtype}, not floating point"
    if shape is not None and 0 in shape:
        return f"its weight {list(shape)} is empty"
    if isinstance(layer, ConvView) and not isinstance(layer.groups, int):
        return "its groups are computed in the graph"
    return None


def _weight_shape(weight: Node) -> tuple | None:
    return shape_of(weight) or constant_shape(weight)


def _opaque_weight(node: Node) -> tuple | None:
    position = OPAQUE[node.target][1] if node.target in OPAQUE else len(node.args)
    return _weight_shape(node.args[position]) if position < len(node.args) else None


def weight_name(weight: object, node: Node, outer: Mapping[Node, str] = MappingProxyType({})) -> str:
    """Fully qualified name of the layer that owns a weight; that of the calling module, or the node, if it has none."""
    found = constant_view(weight)
    if found is not None:
        base = found.base
        if base in outer:
            return outer[base]
        source = getattr(base, "_dynamo_source", None)
        full = qualified_name(source.name) if source is not None else str(base.target)
        return full.removesuffix(".weight").removesuffix(".in_proj_weight") or base.name
    stack = list(node.meta.get("nn_module_stack", {}).values())
    return (qualified_name(stack[-1][0]) if stack else "") or node.name


def qualified_name(source: str) -> str:
    """`L['self']._modules['layer1']._modules['0']._parameters['weight']`  →  `layer1.0.weight`."""
    source = re.sub(r"^\w\['[^']*'\]", "", source)
    parts = re.findall(r"\['([^']*)'\]|\[(\d+)\]|\.?(\w+)", source)
    names = ["".join(part) for part in parts]
    return ".".join(name for name in names if name not in ("_modules", "_parameters", "_buffers"))
