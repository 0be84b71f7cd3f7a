"""What layers read of constants alone is computed once: it leaves the graph and becomes its inputs.

    alpha·g, sums·g, bias·g + h, …  with g, h made of a batch norm's parameters and statistics  →  graph inputs
    bf16(w) of a float layer, on request                                                       →  a graph input

A `Prologue` computes them from the live tensors; the backend runs it again when one of these has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from abcfx.passes._constants import constant_view, writes
from abcfx.passes._glue import is_constant
from abcfx.passes._product import EMIT, PLAIN
from abcfx.passes.emit_bits import PACKS
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from abcfx.graph import CONSTANT, add_placeholder, attribute, made_by, value

KERNELS = (*PLAIN, *EMIT, *PACKS)
RULES = ("PoolFirst", "NarrowLayer")  # that make constants of parameters, for float ops


@dataclass(frozen=True)
class Prologue:
    """graph     of the live `sources` in order; returns what the new inputs `names` stand for
    sources   names of inputs of the main graph, or tensors that it reads as attributes
    names     of the new inputs of the main graph, its last ones
    """

    graph: GraphModule
    sources: tuple[str | Tensor, ...]
    names: tuple[str, ...]

    def tensors(self, live: Sequence[Tensor]) -> list[Tensor]:
        """What to pass for `names`, given what `sources` are now."""
        with torch.inference_mode(False), torch.no_grad():
            return list(self.graph(*live))


def _is_ours(node: Node, reader: Node) -> bool:
    """Made by one of RULES: what else is computed in each call may be meant to, as noise is. Not mere views, which cost
    nothing where they stand, nor s·w of a float convolution, so that its weight is read in each call like any other."""
    if made_by(node) not in RULES or _is_turned(node) or (is_constant(reader) and not _is_turned(reader)):
        return False
    view = constant_view(node)
    return view is None or any(step.cast for step in view.steps)


def _is_turned(node: Node) -> bool:
    """s·w of PoolFirst."""
    convolution = torch.ops.aten.convolution.default
    return made_by(node) == "PoolFirst" and any(user.target is convolution for user in node.users)


def _is_idle(node: Node) -> bool:
    """Whether nothing is lost with a node that has no users."""
    return is_constant(node) and not any(writes(node, operand) for operand in node.all_input_nodes)


def hoist_constants(gm: GraphModule) -> Prologue | None:
    """Take out what layers read of constants alone. Adds graph inputs, the last ones; None if there is nothing."""
    wanted: dict[Node, None] = {}
    for node in gm.graph.nodes:
        if node.op == "call_function":
            # who made it comes first: whether a node is constant takes a walk through all before it
            read = [n for n in node.all_input_nodes if node.target in KERNELS or _is_ours(n, node)]
            wanted.update(dict.fromkeys(n for n in read if n.op == "call_function" and is_constant(n)))
    if not wanted:
        return None
    graph, copies, sources = Graph(), dict[Node, Node](), list[str | Tensor]()

    def copy(node: Node) -> Node:
        if node not in copies:
            if node.op in ("placeholder", "get_attr"):
                live = node.name if node.op == "placeholder" else attribute(gm, str(node.target))
                copies[node] = graph.placeholder(f"source_{len(sources)}")
                sources.append(live)
            else:
                copies[node] = graph.node_copy(node, copy)
        return copies[node]

    graph.output(tuple([copy(node) for node in wanted]))
    names = []
    for number, node in enumerate(wanted):
        like = value(node)
        like = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype, device=like.device)
        new = add_placeholder(gm, f"abc_folded_{number}", like)
        new.meta[CONSTANT] = True
        node.replace_all_uses_with(new)
        names.append(new.name)
    gm.graph.eliminate_dead_code(is_impure_node=lambda node: node.op == "placeholder" or not _is_idle(node))
    gm.graph.lint()
    gm.recompile()
    return Prologue(GraphModule(gm, graph), tuple(sources), tuple(names))
