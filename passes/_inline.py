"""Write a plain torch function into a graph as the aten ops that it runs."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.fx import Node, map_arg
from torch.fx.experimental.proxy_tensor import make_fx

from abcfx.graph import Builder, value


def inline(b: Builder, function: Callable[..., Tensor], *operands: Node) -> Node:
    """function(*operands) as nodes made by `b`: traced on the fake values of the operands, one node for each aten op.

    The function must be straight-line torch code: no tensors of its own, no sizes in its control flow.
    """
    traced = make_fx(function)(*(value(operand) for operand in operands))
    new = dict(zip(traced.graph.find_nodes(op="placeholder"), operands, strict=True))
    for node in traced.graph.find_nodes(op="get_attr"):
        raise ValueError(f"{function} makes a tensor of its own, {node.target}; pass it as an operand")
    for node in traced.graph.nodes:
        if node.op == "call_function":
            args, kwargs = map_arg((node.args, node.kwargs), new.__getitem__)
            new[node] = b(node.target, *args, **kwargs)
    (output,) = traced.graph.find_nodes(op="output")
    return new[output.args[0]]
