"""What each graph level may contain, and what must be true of it. Checked on the graph that comes out of a stage.

ATEN     layers are aten.linear and aten.convolution with complete, plain arguments; no functional spelling is left
ABC      as ATEN, and every abc op has its five plan arguments and f-typed levels of the right length
KERNEL   no abc layer is left; every abc_k product reads the planes that a pack op made, or another product emitted
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping

import torch
from abcfx.passes.canonicalize import CONV, CONV_TRANSPOSE, LINEAR
from torch.fx import GraphModule, Node

import abcfx.ops  # noqa: F401  defines torch.ops.abc and torch.ops.abc_k
from abcfx.graph import AbcConvView, AbcLinearView, ConvView, shape_of, text, view, with_bodies
from abcfx.plan import LayerPlan

aten, abc, abc_k = torch.ops.aten, torch.ops.abc, torch.ops.abc_k
Check = Callable[[Node], str | None]


class SpecError(AssertionError):
    """A stage left something in the graph that its level does not allow."""


def _spelling(node: Node) -> str | None:
    return "a functional spelling that canonicalize should have replaced or declined"


def _linear(node: Node) -> str | None:
    shape = shape_of(node.args[1])
    if len(node.args) != 3 or node.kwargs:
        return "not spelled as (input, weight, bias)"
    return None if shape is None or len(shape) == 2 else f"weight has shape {list(shape)}"


def _convolution(node: Node) -> str | None:
    if len(node.args) != 9 or node.kwargs:
        return "not spelled with nine positional arguments"
    layer = view(node)
    assert isinstance(layer, ConvView)
    lengths = {len(p) for p in (layer.stride, layer.padding, layer.dilation, layer.output_padding)}
    return None if len(lengths) == 1 else f"parameter lists of {sorted(lengths)} dimensions"


def _abc(node: Node) -> str | None:
    layer = view(node)
    assert isinstance(layer, (AbcLinearView, AbcConvView))
    plan = LayerPlan.of_arguments(*layer.plan)
    wanted = (plan.activation_bases if plan.levels == "thermometer" else 1,)
    for role, levels in (("scale", layer.scale), ("shift", layer.shift)):
        shape = shape_of(levels)
        if shape is not None and shape != wanted:
            return f"{role} has shape {list(shape)}, {plan.levels} levels need {list(wanted)}"
    return None


def _not_lowered(node: Node) -> str | None:
    return "an abc layer that lower should have replaced"


def _fed_by(pack: str, emit: str) -> Check:
    def check(node: Node) -> str | None:
        waiting = [node.args[0]]
        while waiting:
            planes = waiting.pop()
            if not isinstance(planes, Node):
                return f"reads planes from {planes!r}"
            if planes.target is operator.getitem and planes.args[0].target is abc_k.chain.default:
                continue  # its kernels were checked before they were chained
            if planes.target is abc_k.max_pool_bits.default:
                waiting.append(planes.args[0])
            elif planes.target is aten.cat.default:
                waiting += planes.args[0]  # type: ignore[operator]
            elif planes.target in (aten.slice.Tensor, aten.reshape.default):
                waiting.append(planes.args[0])
            elif planes.target is aten.permute.default and pack == "pack_rows":  # pixels as rows (flatten_bits)
                return _fed_by("pack_image", "conv2d_emit")(planes)
            else:
                emitted = planes.target is operator.getitem and planes.args[1] == 1
                made_by = str(planes.args[0].target if emitted else planes.target)  # type: ignore[union-attr]
                if made_by != f"abc_k.{emit if emitted else pack}.default":
                    return f"reads planes from {made_by}, not from {pack} or {emit}"
        return None

    return check


ATEN: Mapping[object, Check] = {
    **dict.fromkeys((*LINEAR, *CONV, *CONV_TRANSPOSE), _spelling),
    aten.linear.default: _linear,
    aten.convolution.default: _convolution,
}
ABC: Mapping[object, Check] = {**ATEN, abc.linear.default: _abc, abc.convolution.default: _abc}
KERNEL: Mapping[object, Check] = {
    **ATEN,
    abc.linear.default: _not_lowered,
    abc.convolution.default: _not_lowered,
    **dict.fromkeys((abc_k.linear.default, abc_k.linear_emit.default), _fed_by("pack_rows", "linear_emit")),
    **dict.fromkeys((abc_k.conv2d.default, abc_k.conv2d_emit.default), _fed_by("pack_image", "conv2d_emit")),
}


def verify(
    gm: GraphModule, level: Mapping[object, Check], ran: Collection[str], declined: Collection[str] = ()
) -> None:
    """SpecError naming the node, the problem and the stages that ran, unless `gm` is what `level` says.

    declined: nodes that a rule left alone with a reason; they may keep their spelling. A quantized model goes
    on without canonicalize, so nothing is then held to it.
    """
    spelled = "canonicalize" in ran
    for graph_module in with_bodies(gm):
        graph_module.graph.lint()
        for node in graph_module.graph.nodes:
            if node.op != "call_function" or node.target not in level:
                continue
            if level[node.target] is _spelling and (node.name in declined or not spelled):
                continue
            if problem := level[node.target](node):
                raise SpecError(
                    f"{node.name} ({node.target}): {problem}. Stages that ran: {', '.join(ran)}.\n{text(graph_module)}"
                )
