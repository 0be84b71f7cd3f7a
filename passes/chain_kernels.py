"""Kernels that follow each other → one abc_k.chain, so that what a call costs outside of a kernel is paid once.

    y = conv2d(pack_image(x), …)        y, = chain([x, …], "pack_image %0 …; conv2d %3 …; return %4")

torch's partitioner finds the parts of the graph that can run without anything in between; one of two kernels or more
becomes a chain, with the views between its kernels. What a chain returns is never a view, since its results must not
share memory: a view that is read outside is made there. On the CPU only: a GPU runs kernels while Python goes on.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch._inductor.pattern_matcher import stable_topological_sort
from torch.fx import GraphModule, Node
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from abcfx.graph import VALUE_KEYS, value
from abcfx.ops.kernel_chain import KERNELS, NAMES, VIEWS, program_text, step_text

aten, abc_k = torch.ops.aten, torch.ops.abc_k
LEAST = 2  # kernels of a chain


def chain_kernels(gm: GraphModule) -> int:
    """Make every chain of the graph, and say how many kernels they hold."""
    for node in list(gm.graph.nodes):
        if node.op == "call_function" and node.target is aten.permute.default:
            _join_permutes(node)
    parts = CapabilityBasedPartitioner(gm, _InChains(), allows_single_node_partition=True).propose_partitions()
    chained = 0
    for part in parts:
        # the partitioner puts every getitem beside what it reads
        nodes = [node for node in gm.graph.nodes if node in part.nodes and not _is_index(node)]
        kernels = sum(node.target in KERNELS.values() for node in nodes)
        if kernels >= LEAST:
            _replace(gm, nodes)
            chained += kernels
    stable_topological_sort(gm.graph)
    gm.graph.lint()
    gm.recompile()
    return chained


class _InChains(OperatorSupportBase):
    """Kernels on the CPU, and views, whose arguments are tensors and constants."""

    def is_node_supported(self, submodules: Mapping[str, torch.nn.Module], node: Node) -> bool:
        if node.op != "call_function":
            return False
        if node.target is operator.getitem:
            return not _is_index(node) and self.is_node_supported(submodules, node.args[0])
        if node.target not in NAMES or node.kwargs:
            return False
        found = value(node)
        first = found[0] if isinstance(found, (tuple, list)) else found
        return isinstance(first, Tensor) and first.device.type == "cpu" and all(map(_is_plain, node.args))


def _is_index(node: Node) -> bool:
    """x[…] of a tensor, where getitem of a kernel's results is one of these."""
    return node.target is operator.getitem and isinstance(value(node.args[0]), Tensor)


def _is_plain(arg: Any) -> bool:
    if isinstance(arg, Node):
        return isinstance(value(arg), Tensor)
    return all(map(_is_plain, arg)) if isinstance(arg, (tuple, list)) else not isinstance(arg, torch.SymInt)


def _join_permutes(second: Node) -> None:
    """Two permutations in a row are one, or none."""
    first = second.args[0]
    if first.op != "call_function" or first.target is not aten.permute.default or first.kwargs or second.kwargs:
        return
    (base, before), order = first.args, second.args[1]
    joined = [before[axis] for axis in order]
    if any(axis < 0 for axis in (*before, *order)):
        return
    if joined == sorted(joined):
        second.replace_all_uses_with(base)
        second.graph.erase_node(second)
    else:
        second.args = (base, joined)
    if not first.users:
        first.graph.erase_node(first)


def _replace(gm: GraphModule, nodes: list[Node]) -> None:
    """One chain in the place of these nodes, which are in the order of the graph."""
    nodes = _without_escaping_views(nodes)
    inside = set(nodes)
    inputs = list(dict.fromkeys(n for node in nodes for n in node.all_input_nodes if n not in inside))
    returned = [n for n in nodes if isinstance(value(n), Tensor) and any(user not in inside for user in n.users)]

    number = {node: place for place, node in enumerate(inputs)}
    steps, taken = [], len(inputs)
    for node in nodes:
        if node.target is operator.getitem:
            number[node] = number[node.args[0]] + node.args[1]
            continue
        number[node] = taken
        results = value(node)
        taken += len(results) if isinstance(results, (tuple, list)) else 1
        steps.append(step_text(node.target, _all_arguments(node), number.__getitem__))
    program = program_text(steps, [number[node] for node in returned])

    graph = gm.graph
    with graph.inserting_after(nodes[-1]):
        chain = graph.call_function(abc_k.chain.default, (inputs, program))
    for key in VALUE_KEYS:
        if all(key in node.meta for node in returned):
            chain.meta[key] = [node.meta[key] for node in returned]
    with graph.inserting_after(chain):
        for place, node in enumerate(returned):
            item = graph.call_function(operator.getitem, (chain, place))
            item.meta.update({key: node.meta[key] for key in VALUE_KEYS if key in node.meta})
            node.replace_all_uses_with(item, delete_user_cb=lambda user: user not in inside)
    for node in reversed(nodes):
        graph.erase_node(node)


def _without_escaping_views(nodes: list[Node]) -> list[Node]:
    """The nodes of a chain, less the views that only others read; a view that others read too gets a copy for them."""
    inside = set(nodes)
    for view in reversed([node for node in nodes if node.target in VIEWS.values()]):
        outside = [user for user in view.users if user not in inside]
        if len(outside) == len(view.users):
            inside.discard(view)
        elif outside:
            with view.graph.inserting_after(view):
                copy = view.graph.node_copy(view)
            for user in outside:
                user.replace_input_with(view, copy)
    return [node for node in nodes if node in inside]


def _all_arguments(node: Node) -> list[Any]:
    """The arguments, with the defaults of those that are not given; a slice without bounds is one of everything."""
    schema = node.target._schema.arguments
    args = [*node.args, *(argument.default_value for argument in schema[len(node.args) :])]
    if node.target is aten.slice.Tensor:
        _, _, start, end, _ = args
        args[2:4] = 0 if start is None else start, sys.maxsize if end is None else end
    return args
