"""aten → abc: each planned layer becomes one `abc::` op on the same live weight. Layers without a plan are not touched.

The scale and shift of the activations become new graph inputs, the last ones, a pair per planned layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from abcfx.passes._constants import without_casts
from abcfx.passes._layouts import strides_matter
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from abcfx.passes.match_layers import GraphSite
from torch import Tensor
from torch.fx import GraphModule, Node

import abcfx.ops  # noqa: F401  defines torch.ops.abc
from abcfx.graph import SITE, Builder, ConvView, LinearView, add_placeholder, bodies, value, view
from abcfx.plan import LayerPlan, LayerSite, Plan

aten, abc = torch.ops.aten, torch.ops.abc
PLAN = "abcfx_plan"  # node.meta: (LayerPlan, scale node, shift node) of a layer that is to be replaced


class LevelInputs(NamedTuple):
    """Two new graph inputs: the activation levels of one layer, with the tensors to pass."""

    name: str
    scale: Tensor
    shift: Tensor


def planned_layer(node: Node) -> tuple:
    """The layer that a node computes, its plan and the nodes of its scale and shift; declines if it has no plan."""
    plan, scale, shift = node.meta.get(PLAN) or decline("not in the plan")
    return view(node), plan, scale, shift


class QuantizedLinear(Rule):
    """aten.linear(x, w, bias)  →  abc.linear(x, w, bias, scale, shift, plan) at a planned site.

    y = Â·Ŵᵀ + bias approximates x·wᵀ + bias; the weight stays the live float one, so training goes on.
    Casts of a constant weight or bias (autocast) fall away: bases are fitted to the parameter itself.

    Before::
        def f(x: f32[4, 8], w: f32[16, 8].constant, b: f32[16].constant, scale: f32[1], shift: f32[1]):
            return planned(aten.linear.default(x, w, b), scale, shift)
    After::
        def f(x: f32[4, 8], w: f32[16, 8].constant, b: f32[16].constant, scale: f32[1], shift: f32[1]):
            return abc.linear.default(x, w, b, scale, shift, 2, 2, "alternating", "coded", True)
    Declines::
        def f(x: f32[4, 8], w: f32[16, 8].constant):
            return aten.linear.default(x, w, None)       # not in the plan
    """

    root = (aten.linear.default,)

    def match(self, node: Node) -> tuple:
        return planned_layer(node)

    def rewrite(self, b: Builder, layer: LinearView, plan: LayerPlan, scale: Node, shift: Node) -> Node:
        weight, bias = without_casts(layer.weight), without_casts(layer.bias)
        return b(abc.linear.default, layer.input, weight, bias, scale, shift, *plan.op_arguments())


class QuantizedConvolution(Rule):
    """aten.convolution(x, w, bias, geometry)  →  abc.convolution(x, w, bias, scale, shift, geometry, plan).

    As QuantizedLinear. Where a user of the result depends on its strides (`view`, for one) and the kernel writes
    another order, a copy in the float layer's order follows.

    Before::
        def f(x: f32[1, 4, 5, 5], w: f32[8, 4, 3, 3].constant, scale: f32[1], shift: f32[1]):
            y = aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)
            return torch.mean(planned(y, scale, shift))
    After::
        def f(x: f32[1, 4, 5, 5], w: f32[8, 4, 3, 3].constant, scale: f32[1], shift: f32[1]):
            y = abc.convolution.default(x, w, None, scale, shift, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                                        2, 2, "alternating", "coded", True)
            return torch.mean(y)
    Declines::
        def f(x: f32[1, 4, 5, 5], w: f32[8, 4, 3, 3].constant):
            return aten.convolution.default(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1)   # not in the plan
    """

    root = (aten.convolution.default,)

    def match(self, node: Node) -> tuple:
        return planned_layer(node)

    def rewrite(self, b: Builder, layer: ConvView, plan: LayerPlan, scale: Node, shift: Node) -> Node:
        weight, bias, geometry = without_casts(layer.weight), without_casts(layer.bias), layer[3:]
        y = b(abc.convolution.default, layer.input, weight, bias, scale, shift, *geometry, *plan.op_arguments())
        return keep_strides(b, y)


def keep_strides(b: Builder, new: Node) -> Node:
    """`new`, or a copy of it with the strides of the node it replaces, where somebody depends on them."""
    old_value, new_value = value(b.root), value(new)
    if not isinstance(old_value, Tensor) or not isinstance(new_value, Tensor):
        return new
    if old_value.stride() == new_value.stride() or not strides_matter(b.root):
        return new
    last = old_value.dim() == 4 and old_value.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if last and not old_value.is_contiguous() else torch.contiguous_format
    return b(aten.clone.default, new, memory_format=memory_format)


REWRITE: tuple[Rule, ...] = (QuantizedLinear(), QuantizedConvolution())


def rewrite_abc(
    gm: GraphModule, sites: Iterable[GraphSite], plan: Plan, levels: Callable[[LayerSite], tuple[Tensor, Tensor]]
) -> tuple[list[LevelInputs], Report]:
    """Replace every planned site; `levels(site)` gives the scale and shift that its new inputs stand for.

    Returns the new inputs in the order in which they were added, after all earlier ones.
    """
    added: list[LevelInputs] = []
    for site, node, owner in sites:
        if site.name not in plan.layers:
            continue
        scale, shift = levels(site)
        pair = [
            _reach(gm, owner, add_placeholder(gm, f"abc_{role}_{len(added)}", tensor))
            for role, tensor in (("scale", scale), ("shift", shift))
        ]
        node.meta[PLAN] = (plan.layers[site.name], *pair)
        node.meta[SITE] = site.name
        added.append(LevelInputs(site.name, scale, shift))
    return added, apply_rules(gm, REWRITE)


def _reach(gm: GraphModule, owner: GraphModule, node: Node) -> Node:
    """Hand an outer node down, as one more operand, to the checkpoint body `owner`; the node itself at the top."""
    if gm is owner:
        return node
    for call, body in bodies(gm):
        if _contains(body, owner):
            call.args = (*call.args, node)
            call.meta.pop("eager_input_vals", None)
            return _reach(body, owner, _add_operand(body, node))
    raise ValueError(f"the body of {node} is not part of this graph")


def _contains(gm: GraphModule, owner: GraphModule) -> bool:
    return gm is owner or any(_contains(body, owner) for _, body in bodies(gm))


def _add_operand(body: GraphModule, outer: Node) -> Node:
    last = body.graph.find_nodes(op="placeholder")
    with body.graph.inserting_after(last[-1] if last else body.graph._root):
        inner = body.graph.placeholder(outer.name)
    inner.meta.update(outer.meta)
    return inner
