"""abc → kernel, for inference: `abc::` layers become pack + packed product on bit planes, or one dense op.

What is made of a weight (bit planes, scales, tap sums; or the dequantized weight) becomes new graph inputs. A
`WeightInput` says of which weight and how, so that the caller can fill them from the live parameter at every call.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import torch
from abcfx.passes._constants import View, constant_view
from abcfx.passes._inline import inline
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from abcfx.passes.inline_checkpoints import inline_checkpoints
from abcfx.passes.match_layers import weight_name
from abcfx.passes.rewrite_abc import keep_strides
from torch import Tensor
from torch._prims_common import suggest_memory_format
from torch.fx import GraphModule, Node

import abcfx.ops  # noqa: F401  defines torch.ops.abc and torch.ops.abc_k
from abcfx.debug import SKIPPED, skips
from abcfx.graph import (
    CONSTANT,
    SITE,
    AbcConvView,
    AbcLinearView,
    Builder,
    ConvView,
    LinearView,
    add_placeholder,
    dtype_of,
    optimization_hint,
    shape_of,
    value,
    view,
)
from abcfx.ops.choose import Choice, choose
from abcfx.ops.kernel_weights import lanes_of, packed_dtype, packed_shape
from abcfx.ops.weight_cache import WeightRecipe, dequantized, packed
from abcfx.ops.workload import TYPICAL_ROWS, Workload
from abcfx.plan import LayerPlan
from abcfx.quant import activations

aten, abc, abc_k = torch.ops.aten, torch.ops.abc, torch.ops.abc_k
FORM = "abcfx_form"  # node.meta: what `_decide` found for an abc node


@dataclass(frozen=True)
class WeightInput:
    """New graph inputs made of one weight.

    layer    name of the layer, for messages
    names    of the new placeholders: (bits, alpha, tap_sums), or one dequantized weight
    view     the constant they are made of: `view.base` is a placeholder or get_attr node, `view.of(live)` its view
    recipe   how weights are quantized; `dtype` of the dequantized weight, None if packed
    """

    layer: str
    names: tuple[str, ...]
    view: View
    recipe: WeightRecipe
    dtype: torch.dtype | None = None

    def tensors(self, live: Tensor) -> tuple[Tensor, ...]:
        """What to pass for `names`, given the live base tensor. Kept until that tensor changes."""
        weight = self.view.of(live)
        try:
            if self.dtype is None:
                return tuple(packed(weight, self.recipe))
            return (dequantized(weight, self.recipe).to(self.dtype),)
        except ValueError as error:
            raise ValueError(f"{self.layer}: {error}") from error


@dataclass
class Lowered:
    """inputs   the new graph inputs in order
    kernels  names of layers on bit planes     reasons  why each other one is not
    choices  what was chosen for each layer that had a choice, with times
    """

    inputs: list[WeightInput] = field(default_factory=list)
    kernels: list[str] = field(default_factory=list)
    reasons: dict[str, str] = field(default_factory=dict)
    choices: dict[str, Choice] = field(default_factory=dict)
    report: Report = field(default_factory=Report)


class PackedLinear(Rule):
    """abc.linear(x, w, …)  →  abc_k.linear(pack_rows(x), bits, α, tap sums, …), rows being all leading dimensions.

    Holds because abc_k.linear is Σ_p Σ_q α_p β_q B_p·A_q + c·Σ Ŵ + bias, the float product of the dequantized operands.
    The product is made in f32 and cast to the dtype of x.

    Before::
        def f(x: f32[2, 4, 64], w: f32[16, 64].constant, b: f32[16].constant, s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, b, s, t, 2, 3, "alternating", "coded", True)
    After::
        def f(x: f32[2, 4, 64], w: f32[16, 64].constant, b: f32[16].constant, s: f32[1], t: f32[1],
              bits: i64[1, 2, 2, 1, 8], alpha: f32[2, 16], sums: f32[16, 1]):
            rows = abc_k.pack_rows.default(aten.reshape.default(x, [-1, 64]), s, t, 3, "coded")
            y = abc_k.linear.default(rows, bits, alpha, sums, b, s, t, "coded", 64)
            return aten.reshape.default(y, [2, 4, 16])
    Declines::
        def f(x: f32[2, 8], w: f32[16, 8].constant, s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "coded", True)     # 8 channels per group
    """

    root = (abc.linear.default,)

    def match(self, node: Node) -> tuple:
        layer, form = view(node), node.meta[FORM]
        if form.reason is not None:
            decline(form.reason)
        return layer, form, LayerPlan.of_arguments(*layer.plan)

    def rewrite(self, b: Builder, layer: AbcLinearView, form: Form, plan: LayerPlan) -> Node:
        depth, outputs = form.weight_shape[1], form.weight_shape[0]
        x, scale, shift, bias = packed_operands(b, layer)
        lead = list(shape_of(layer.input) or ())[:-1]
        x = x if len(lead) == 1 else b(aten.reshape.default, x, [-1, depth])
        rows = b(abc_k.pack_rows.default, x, scale, shift, plan.activation_bases, plan.levels)
        y = b(abc_k.linear.default, rows, *form.nodes, bias, scale, shift, plan.levels, depth)
        if len(lead) != 1:
            sizes = [s if isinstance(s, int) else b(aten.sym_size.int, layer.input, i) for i, s in enumerate(lead)]
            y = b(aten.reshape.default, y, [*sizes, outputs])
        return as_dtype(b, y, dtype_of(layer.input))


class PackedConvolution(Rule):
    """abc.convolution(x, w, …)  →  abc_k.conv2d(pack_image(x), bits, α, tap sums, …), in one or two dimensions.

    Holds as for PackedLinear; zero padding contributes exactly zero (docs/bits.md). One dimension is an image of one
    line. The kernel writes [n, oh, ow, o]; a permutation gives it the order of a convolution without moving anything.

    Before::
        def f(x: f32[2, 64, 9, 9], w: f32[16, 32, 3, 3].constant, s: f32[1], t: f32[1]):
            return torch.mean(abc.convolution.default(x, w, None, s, t, [2, 2], [1, 1], [1, 1], False, [0, 0], 2,
                              2, 3, "alternating", "coded", True))
    After::
        def f(x: f32[2, 64, 9, 9], w: f32[16, 32, 3, 3].constant, s: f32[1], t: f32[1],
              bits: i64[2, 1, 2, 9, 8], alpha: f32[2, 16], sums: f32[16, 9]):
            image = abc_k.pack_image.default(x, s, t, 3, "coded", 2, [1, 1])
            y = abc_k.conv2d.default(image, bits, alpha, sums, None, s, t, "coded", 32, [3, 3],
                                     [2, 2], [1, 1], [1, 1], 2)
            return torch.mean(aten.permute.default(y, [0, 3, 1, 2]))
    Declines::
        def f(x: f32[1, 4, 5, 5], w: f32[8, 4, 3, 3].constant, s: f32[1], t: f32[1]):
            return abc.convolution.default(x, w, None, s, t, [1, 1], [1, 1], [1, 1], False, [0, 0], 1,
                                           2, 2, "alternating", "coded", True)       # 4 channels per group
    """

    root = (abc.convolution.default,)

    def match(self, node: Node) -> tuple:
        layer, form = view(node), node.meta[FORM]
        if form.reason is not None:
            decline(form.reason)
        return layer, form, LayerPlan.of_arguments(*layer.plan)

    def rewrite(self, b: Builder, layer: AbcConvView, form: Form, plan: LayerPlan) -> Node:
        stride, padding, dilation, _transposed, _output_padding, groups = layer.geometry
        x, scale, shift, bias = packed_operands(b, layer)
        kernel, is_1d = list(form.weight_shape[2:]), len(form.weight_shape) == 3
        if is_1d:
            x = b(aten.unsqueeze.default, x, 2)
            kernel, stride, padding, dilation = [1, *kernel], [1, *stride], [0, *padding], [1, *dilation]
        if all(size == 1 for size in kernel) and not any(padding) and max(stride) > 1:
            for axis, step in zip((2, 3), stride, strict=True):  # a shortcut: pack only the pixels that it reads
                x = b(aten.slice.Tensor, x, axis, 0, sys.maxsize, step) if step > 1 else x
            stride = [1, 1]
        image = b(abc_k.pack_image.default, x, scale, shift, plan.activation_bases, plan.levels, groups, list(padding))
        y = b(
            abc_k.conv2d.default, image, *form.nodes, bias, scale, shift, plan.levels, form.weight_shape[1],
            kernel, list(stride), list(padding), list(dilation), groups,
        )  # fmt: skip
        y = b(aten.permute.default, y, [0, 3, 1, 2])
        y = b(aten.squeeze.dim, y, 2) if is_1d else y
        return keep_strides(b, as_dtype(b, y, dtype_of(layer.input)))


class DenseLayer(Rule):
    """abc layer without a kernel that pays  →  the float op on x̂ = quantize(x) and Ŵ.

    Holds by definition of the quantized layer. Computed in at least f32 and cast to the dtype of x. The quantizer of
    abcfx/quant/activations.py is written out, so that inductor fuses it with what stands before it.

    Before::
        def f(x: f32[2, 8], w: f32[16, 8].constant, s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "coded", True)
    After::
        def f(x: f32[2, 8], w: f32[16, 8].constant, s: f32[1], t: f32[1], dense: f32[16, 8]):
            k = aten.sub.Tensor(x, aten.select.int(t, 0, 0))
            k = aten.mul.Tensor(k, aten.reciprocal.default(aten.select.int(s, 0, 0)))
            k = aten.clamp.default(aten.round.default(k), 0, 7)
            k = aten.masked_fill.Scalar(k, aten.ne.Tensor(k, k), 0.0)
            y = aten.add.Tensor(aten.mul.Tensor(k, aten.select.int(s, 0, 0)), aten.select.int(t, 0, 0))
            return aten.linear.default(y, dense, None)
    Before::
        def f(x: f32[2, 8], w: f32[16, 8], s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "coded", True)
    After::
        def f(x: f32[2, 8], w: f32[16, 8], s: f32[1], t: f32[1]):
            dense = abc.quantize_weight.default(w, False, 1, 2, "alternating", True)
            k = aten.sub.Tensor(x, aten.select.int(t, 0, 0))
            k = aten.mul.Tensor(k, aten.reciprocal.default(aten.select.int(s, 0, 0)))
            k = aten.clamp.default(aten.round.default(k), 0, 7)
            k = aten.masked_fill.Scalar(k, aten.ne.Tensor(k, k), 0.0)
            y = aten.add.Tensor(aten.mul.Tensor(k, aten.select.int(s, 0, 0)), aten.select.int(t, 0, 0))
            return aten.linear.default(y, dense, None)
    Declines::
        def f(x: f32[2, 64], w: f32[16, 64].constant, s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "coded", True)   # has a kernel
    """

    root = (abc.linear.default, abc.convolution.default)

    def match(self, node: Node) -> tuple:
        layer, form = view(node), node.meta[FORM]
        if form.reason is None:
            decline("has a kernel")
        return layer, form, LayerPlan.of_arguments(*layer.plan)

    def rewrite(self, b: Builder, layer: AbcLinearView | AbcConvView, form: Form, plan: LayerPlan) -> Node:
        dtype = compute_dtype(dtype_of(layer.input))
        x, bias = (as_dtype(b, n, dtype) for n in (layer.input, layer.bias))
        x = inline(
            b,
            lambda x, scale, shift: activations.quantize(x, scale, shift, plan.activation_bases, plan.levels),
            *(x, layer.scale, layer.shift),
        )
        if form.nodes:
            (weight,) = form.nodes
        else:
            weight = as_dtype(b, quantized_weight(b, layer, form.recipe), dtype)
        y = float_op(b, layer, x, weight, bias)
        return keep_strides(b, as_dtype(b, y, dtype_of(layer.input)))


def recipe_of(layer: AbcLinearView | AbcConvView, plan: LayerPlan) -> WeightRecipe:
    *_, transposed, _, groups = layer.geometry if isinstance(layer, AbcConvView) else (False, None, 1)
    return WeightRecipe(plan.weight_bases, plan.basis, plan.per_channel, transposed, groups)


def quantized_weight(b: Builder, layer: AbcLinearView | AbcConvView, recipe: WeightRecipe) -> Node:
    """Ŵ of a live weight, fitted in the graph."""
    return b(
        abc.quantize_weight.default, layer.weight, recipe.transposed, recipe.groups, recipe.weight_bases, recipe.basis,
        recipe.per_channel,
    )  # fmt: skip


def float_op(b: Builder, layer: AbcLinearView | AbcConvView, x: Node, weight: Node, bias: Node | None) -> Node:
    """The op that the quantized layer stands for, on other operands."""
    if isinstance(layer, AbcConvView):
        return b(aten.convolution.default, x, weight, bias, *layer.geometry)
    return b(aten.linear.default, x, weight, bias)


LOWER: tuple[Rule, ...] = (PackedLinear(), PackedConvolution(), DenseLayer())


@dataclass(frozen=True)
class Form:
    """What becomes of one abc node: reason is None for a kernel; `nodes` hold what is made of its weight."""

    reason: str | None
    weight_shape: tuple[int, ...]
    recipe: WeightRecipe
    nodes: tuple[Node, ...] = ()
    choice: Choice | None = None


def lower(gm: GraphModule) -> Lowered:
    """Lower every abc layer of an inference graph, checkpoint bodies inlined. Adds graph inputs, the last ones."""
    inline_checkpoints(gm)
    lowered = decide_forms(gm)
    lowered.report = apply_rules(gm, LOWER)
    return lowered


def decide_forms(gm: GraphModule) -> Lowered:
    """Kernel or dense form for every abc layer, written into its node's meta; adds the inputs that it needs."""
    lowered = Lowered()
    shared: dict[tuple, tuple[Node, ...]] = {}
    for node in list(gm.graph.nodes):
        layer = view(node)
        if isinstance(layer, (AbcLinearView, AbcConvView)):
            name = node.meta.setdefault(SITE, weight_name(layer.weight, node))
            node.meta[FORM] = form = _decide(gm, node, layer, lowered.inputs, shared)
            if form.choice is not None:
                lowered.choices[name] = form.choice
            if form.reason is None:
                lowered.kernels.append(name)
            else:
                lowered.reasons[name] = form.reason
    return lowered


def _decide(
    gm: GraphModule, node: Node, layer: AbcLinearView | AbcConvView, inputs: list[WeightInput], shared: dict
) -> Form:
    plan = LayerPlan.of_arguments(*layer.plan)
    recipe = recipe_of(layer, plan)
    shape, found = shape_of(layer.weight), constant_view(layer.weight)
    if shape is None or shape_of(layer.input) is None:
        raise ValueError(f"{node.name}: lowering needs shapes; trace with make_fx, torch.export or torch.compile")
    if found is None:
        return Form("its weight is computed in the graph, so it cannot be packed once", shape, recipe)
    tensor: Tensor = value(layer.input)
    choice = choose(workload_of(layer), plan, tensor.device)
    if skips(node.meta[SITE]):
        choice = Choice("dense", SKIPPED)
    reason = choice.reason if choice.form == "dense" else None
    recipe = recipe if reason else recipe._replace(method=choice.form)
    dtype = None if reason is None else compute_dtype(tensor.dtype)
    key = (found, recipe, dtype)
    if key not in shared:
        device = value(layer.weight).device
        shapes = packed_shapes(shape, recipe, device) if dtype is None else {"dense": (shape, dtype)}
        shared[key] = tuple(
            add_placeholder(gm, f"abc_{role}_{len(inputs)}", torch.empty(size, dtype=kept, device=device))
            for role, (size, kept) in shapes.items()
        )
        for made in shared[key]:
            made.meta[CONSTANT] = True
        inputs.append(
            WeightInput(weight_name(layer.weight, node), tuple(n.name for n in shared[key]), found, recipe, dtype)
        )
    return Form(reason, shape, recipe, shared[key], choice)


def workload_of(layer: AbcLinearView | AbcConvView | LinearView | ConvView) -> Workload:
    """Symbolic sizes count as in the example that was traced, without a guard: one graph serves all sizes."""
    x, weight = value(layer.input), shape_of(layer.weight)
    shape = [optimization_hint(size, fallback=TYPICAL_ROWS) for size in x.shape]
    if isinstance(layer, (AbcLinearView, LinearView)):
        return Workload.linear(weight, x.dtype, shape, compiled=True)
    last = x.dim() == 4 and suggest_memory_format(x) == torch.channels_last
    geometry = layer.geometry if isinstance(layer, AbcConvView) else layer[3:]
    return Workload.convolution(weight, x.dtype, shape, geometry, compiled=True, channels_last=last)


def packed_shapes(
    weight: tuple[int, ...], recipe: WeightRecipe, device: torch.device
) -> dict[str, tuple[tuple[int, ...], torch.dtype]]:
    """Shapes and dtypes of what `weight_cache.packed` makes of a weight [o, channels/groups, *kernel] there."""
    outputs, channels, *kernel = weight
    taps, lanes = torch.Size(kernel).numel(), lanes_of(recipe.method, device)
    bits = packed_shape(recipe.weight_bases, outputs, taps, channels, recipe.groups, lanes)
    return {
        "bits": (bits, packed_dtype(lanes)),
        "alpha": ((recipe.weight_bases, outputs), torch.float32),
        "tap_sums": ((outputs, taps), torch.float32),
    }


def compute_dtype(dtype: torch.dtype | None) -> torch.dtype:
    """A quantized layer computes in f32, or f64 for an f64 input."""
    return torch.promote_types(dtype or torch.float32, torch.float32)


def as_dtype(b: Builder, node: Any, dtype: torch.dtype | None) -> Any:
    return node if node is None or dtype is None or dtype_of(node) == dtype else b(aten.to.dtype, node, dtype)


def packed_operands(b: Builder, layer: AbcLinearView | AbcConvView) -> tuple[Any, ...]:
    """(x, scale, shift, bias): x as it is, since the pack kernels read f32, bf16 and f16; the others in f32."""
    return layer.input, *(as_dtype(b, node, torch.float32) for node in (layer.scale, layer.shift, layer.bias))
