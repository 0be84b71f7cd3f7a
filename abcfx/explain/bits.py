"""Reading a lowered graph: which edges carry bit planes, which nodes pack, multiply, or finish, and for which layer.

Nothing here knows an op by name, so that fused ops need no entry:

    an edge carries bits   ⇔   its value is int64 or uint8 planes made by an abc_k op, or moved about from such
    a product              =   an abc_k op that reads the packed weight of a layer; it belongs to that layer
    a pack                 =   an abc_k op without a weight whose value is bits; it belongs to the layer that reads it
    the rest of a layer    =   other ops that stand for it: output correction, layout, casts
"""

from __future__ import annotations

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from torch.fx import GraphModule, Node

from abcfx.graph import SITE, value
from abcfx.passes.lower import Lowered
from abcfx.passes.match_layers import qualified_name

PLANES = (torch.int64, torch.uint8, torch.uint64)


@dataclass
class LayerNodes:
    """Nodes of one layer in a lowered graph, in order. `reads_bits`, `writes_bits`: planes from and to other layers."""

    pack: list[Node] = field(default_factory=list)
    product: list[Node] = field(default_factory=list)
    rest: list[Node] = field(default_factory=list)
    reads_bits: bool = False
    writes_bits: bool = False


def is_kernel(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target.namespace == "abc_k"


def planes_of(node: Node) -> int:
    """Bit planes of each value: the argument of the pack op that made them, or 1 if no argument says it."""
    if is_kernel(node):
        names = [argument.name for argument in node.target._schema.arguments]
        given = dict(zip(names, node.args, strict=False)) | node.kwargs
        for name in ("next_planes", "planes", "bases", "activation_bases"):
            if isinstance(given.get(name), int):
                return given[name]
    return next((planes_of(n) for n in node.all_input_nodes if n.op == "call_function"), 1)


class BitGraph:
    """Questions about one lowered graph."""

    def __init__(self, gm: GraphModule, lowered: Lowered) -> None:
        self.gm = gm
        self.weights: Mapping[str, str] = {
            name: made.layer for made in lowered.inputs if made.dtype is None for name in made.names
        }
        self._bits: dict[Node, bool] = {}

    def carries_bits(self, node: Node) -> bool:
        """Whether the edges that leave this node carry bit planes."""
        if node not in self._bits:
            self._bits[node] = node.op == "call_function" and self._makes_bits(node)
        return self._bits[node]

    def _makes_bits(self, node: Node) -> bool:
        made = value(node)
        if isinstance(made, (tuple, list)):  # of several outputs; the edge to each getitem is what counts
            return False
        if not isinstance(made, Tensor) or made.dtype not in PLANES:
            return False
        if node.target is operator.getitem:
            return is_kernel(node.args[0])
        sources = [source for source in node.all_input_nodes if isinstance(value(source), Tensor)]
        return is_kernel(node) or (bool(sources) and all(self.carries_bits(source) for source in sources))

    def edges(self) -> Iterator[tuple[Node, Node]]:
        """Every edge that carries bits."""
        for node in self.gm.graph.nodes:
            if self.carries_bits(node):
                yield from ((node, user) for user in node.users)

    def layer_of_product(self, node: Node) -> str | None:
        """The layer whose packed weight this op reads; None if it reads none."""
        if not is_kernel(node):
            return None
        read = [self.weights[source.name] for source in node.all_input_nodes if source.name in self.weights]
        return str(node.meta.get(SITE) or read[0]) if read else None

    @cached_property
    def layers(self) -> dict[str, LayerNodes]:
        """layer → its nodes, for every layer that has a product on bits in this graph."""
        found: dict[str, LayerNodes] = {}
        owner: dict[Node, str] = {}
        for node in self.gm.graph.nodes:
            if (name := self.layer_of_product(node)) is not None:
                found.setdefault(name, LayerNodes()).product.append(node)
                owner[node] = name
        for nodes in found.values():
            for product in nodes.product:
                for source in self._bit_sources(product):
                    if source in owner:
                        nodes.reads_bits = True
                        found[owner[source]].writes_bits = True
                    elif source not in nodes.pack and not any(source in other.pack for other in found.values()):
                        nodes.pack.append(source)
        self._add_rest(found, {*owner, *(p for nodes in found.values() for p in nodes.pack)})
        return found

    def _bit_sources(self, product: Node) -> list[Node]:
        """Kernels that made the planes which a product reads, looked for through ops that only move planes about."""
        sources, queue, seen = [], [n for n in product.all_input_nodes if self.carries_bits(n)], set()
        while queue:
            node = queue.pop()
            if node in seen:
                continue
            seen.add(node)
            made_of = [n for n in node.all_input_nodes if self.carries_bits(n)]
            if node.target is operator.getitem:
                sources.append(node.args[0])
            elif made_of and self.layer_of_product(node) is None:
                queue += made_of
            else:
                sources.append(node)
        return sources

    def _add_rest(self, found: Mapping[str, LayerNodes], taken: set[Node]) -> None:
        after: set[Node] = set()
        for node in self.gm.graph.nodes:
            if any(source in after or source in taken for source in node.all_input_nodes):
                after.add(node)
                name = _layer_that_it_stands_for(node)
                if node.op == "call_function" and not is_kernel(node) and name in found:
                    found[name].rest.append(node)


def _layer_that_it_stands_for(node: Node) -> str | None:
    """By the site that a pass noted, else by the module whose forward made it."""
    if SITE in node.meta:
        return str(node.meta[SITE])
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    return qualified_name(stack[-1][0]) if stack else None
