"""Inference only: without a backward pass a checkpoint recomputes nothing, so its body takes the place of the call.

    checkpoint(body, *operands)[i]   →   the i-th result of body(*operands)

Holds because a checkpoint decides when values are computed in the backward pass, never what they are. After it there
is one graph, in which every layer sees its weight as an input.
"""

from __future__ import annotations

import operator

import torch
from abcfx.passes._rule import erase_pattern
from torch.fx import GraphModule, Node

from abcfx.graph import attribute, bodies

CHECKPOINTS = (torch.ops.higher_order.tag_activation_checkpoint,)


def inline_checkpoints(gm: GraphModule) -> int:
    """Inline every checkpoint body, nested ones too; returns how many there were."""
    count = 0
    while calls := [(call, body) for call, body in bodies(gm) if call.target in CHECKPOINTS]:
        for call, body in calls:
            _inline(gm, call, body)
        count += len(calls)
    if count:
        gm.graph.lint()
        gm.recompile()
    return count


def _inline(gm: GraphModule, call: Node, body: GraphModule) -> None:
    copies: dict[Node, Node] = dict(zip(body.graph.find_nodes(op="placeholder"), call.args[1:], strict=True))  # type: ignore[arg-type]
    results: tuple = ()
    with gm.graph.inserting_before(call):
        for node in body.graph.nodes:
            if node.op == "output":
                results = torch.fx.map_arg(node.args[0], copies.__getitem__)
            elif node.op == "get_attr":
                copies[node] = gm.graph.get_attr(_adopt(gm, body, node))
                copies[node].meta = dict(node.meta)
            elif node.op != "placeholder":
                copies[node] = gm.graph.node_copy(node, copies.__getitem__)
    for user in list(call.users):
        if user.target is not operator.getitem:
            raise ValueError(f"{user} uses all results of {call} at once")
        user.replace_all_uses_with(results[user.args[1]])  # type: ignore[index]
        gm.graph.erase_node(user)
    erase_pattern(call)


def _adopt(gm: GraphModule, body: GraphModule, node: Node) -> str:
    """Make what a get_attr of the body reads an attribute of `gm`, under a free name."""
    base = str(node.target).replace(".", "_")
    name, count = base, 0
    while hasattr(gm, name):
        count += 1
        name = f"{base}_{count}"
    setattr(gm, name, attribute(body, str(node.target)))
    return name
