"""A region of quantized convolutions is channels_last throughout: what enters it in another order is converted once.

    emit(…, residual=permute(v))        →   emit(…, residual=permute(v')),      v' = clone(v, channels_last)
    cat(v, y), v + y                    →   cat(v', y), v' + y                  y made by a product, or of such values

Kernels write pixels with their channels together and read residuals so. One v in another order was copied inside each
kernel that added it, and made the glue that it meets y in write its own order, which the next layers then read. The
other layers and glue of the region that read v get v' too; a v that is only packed is not converted, since packing
reads any order. Inductor writes v' as part of whatever makes v.

Only readers whose strides nobody can see get v' (passes/_layouts.py), so the strides of the graph's outputs stay, and
no copy back is ever needed. Values are the same.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from abcfx.passes._constants import writes
from abcfx.passes._layouts import passes_strides, strides_matter
from abcfx.passes._product import PERMUTES, TO_NCHW, TO_NHWC, view
from abcfx.passes._rule import Report
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from abcfx.graph import VALUE_KEYS, Builder, set_value, value, with_bodies

aten, abc_k = torch.ops.aten, torch.ops.abc_k
# Names of ops whose result may share the memory of their first argument
_ALIASES = {
    "getitem", "permute", "transpose", "reshape", "view", "flatten", "squeeze", "unsqueeze", "expand", "slice",
    "select", "narrow", "chunk", "split", "unbind", "contiguous", "detach", "to", "float", "dropout",
}  # fmt: skip


def one_layout(gm: GraphModule, report: Report) -> None:
    """Convert what enters a region in another order; what cannot be converted is in report.declined."""
    for part in with_bodies(gm):
        inside = {node for node in part.graph.nodes if _is_permute(node, TO_NCHW) and view(node.args[0]) is not None}
        # the rules of fusing replaced nodes by ones of other strides
        _update_values(user for node in inside for user in node.users)
        for node in list(part.graph.nodes):
            entering = list[Node]()
            if _is_permute(node, TO_NHWC) and any(_adds(user, node) for user in node.users):
                entering = [node.args[0]]
            elif _is_image(node) and passes_strides(node) and inside & set(node.all_input_nodes):
                inside.add(node)
                entering = node.all_input_nodes
            for v in entering:
                if v not in inside and _is_image(v) and not _is_channels_last(v):
                    _convert(part.graph, v, node, report)
        part.graph.lint()
        part.recompile()


def _convert(graph: Graph, v: Node, wanted_by: Node, report: Report) -> None:
    if strides_matter(wanted_by):
        report.left(v.name, f"the strides of {wanted_by.name}, which reads it, are seen")
        return
    if any(_writes(node) and _memory_of(node.args[0]) is _memory_of(v) for node in graph.nodes if v < node):
        report.left(v.name, "it is written in place later")
        return
    readers = [user for user in v.users if _is_packing(user) or (passes_strides(user) and not strides_matter(user))]
    b = Builder(min(readers), "OneLayout")
    converted = b(aten.clone.default, v, memory_format=torch.channels_last)
    for reader in readers:
        reader.replace_input_with(v, converted)
    _update_values(readers)
    report.applied["OneLayout"] += 1


def _update_values(readers: Iterable[Node]) -> None:
    """Fake values of `readers`, whose arguments have other strides now, and on from there as far as strides change."""
    waiting = {node for node in readers if passes_strides(node)}
    for node in list(min(waiting).graph.nodes) if waiting else ():
        if node in waiting:
            before = value(node)
            set_value(node, next((key for key in VALUE_KEYS if key in node.meta), None))
            if isinstance(before, Tensor) and before.stride() != value(node).stride():
                waiting.update(user for user in node.users if passes_strides(user))


def _is_permute(node: Node, order: list[int]) -> bool:
    return node.op == "call_function" and node.target in PERMUTES and list(node.args[1]) == order  # type: ignore[arg-type]


def _adds(user: Node, residual: Node) -> bool:
    return user.target is abc_k.conv2d_emit.default and user.args[14] is residual


def _is_packing(node: Node) -> bool:
    return node.target is abc_k.pack_image.default


def _is_image(node: Node) -> bool:
    found = value(node)
    return isinstance(found, Tensor) and found.dim() == 4


def _is_channels_last(node: Node) -> bool:
    return value(node).is_contiguous(memory_format=torch.channels_last)


def _name(node: Node) -> str:
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.split(".")[0]


def _writes(node: Node) -> bool:
    """Whether a node writes into its first argument."""
    return node.op in ("call_function", "call_method") and bool(node.args) and writes(node, node.args[0])  # type: ignore[arg-type]


def _memory_of(node: object) -> object:
    """The node that made the memory which `node` is a view of, or wrote to."""
    while isinstance(node, Node) and node.args and (_writes(node) or _name(node) in _ALIASES):
        node = node.args[0]
    return node
