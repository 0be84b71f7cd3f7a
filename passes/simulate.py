"""abc → aten, for training: simulated quantization, the float op on x̂ and Ŵ with the derivatives of the adjoints.

Where processors have dense products that are as fast as those on bits for the few channels of a small network (bfloat16
on AMX, tensor cores), a training step gains more from what this leaves to inductor: the quantizer, its gradient, batch
norm and activation become one loop over memory, and activations stay in the dtype that autocast gives them.

Source of the term: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
Only Inference", section 3.
"""

from __future__ import annotations

import torch
from abcfx.passes._inline import inline
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from abcfx.passes.lower import as_dtype
from abcfx.passes.rewrite_abc import keep_strides
from torch.fx import GraphModule, Node

import abcfx.ops  # noqa: F401  defines torch.ops.abc
from abcfx.graph import AbcConvView, AbcLinearView, Builder, dtype_of, view
from abcfx.plan import LayerPlan
from abcfx.quant import ste

aten, abc = torch.ops.aten, torch.ops.abc


class SimulatedLayer(Rule):
    """abc layer  →  aten op on fake_quantize(x) and quantize_weight(w), in the dtype of x.

    Holds because that is what the layer is defined to compute; in bfloat16 x̂ and Ŵ are rounded to 8 bits, sums are
    not. The gradients are those of abcfx/quant/ste.py: `ste.fake_quantize` has them for derivatives, the one of
    abc.quantize_weight is a row of passes/adjoint.py.

    In the example r is the rate of the gradients of levels, and of(value, other) has the derivative of `other`.

    Before::
        def f(x: f32[2, 8], w: f32[16, 8], s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "coded", True)
    After::
        def f(x: f32[2, 8], w: f32[16, 8], s: f32[1], t: f32[1]):
            def of(value, other):
                value, still = aten.detach.default(value), aten.detach.default(other)
                return aten.add.Tensor(value, aten.sub.Tensor(other, still))
            o, d = aten.select.int(t, 0, 0), aten.select.int(s, 0, 0)
            ones = aten.expand.default(aten.new_ones.default(x, [], pin_memory=False), [2, 8])
            r = aten.rsqrt.default(aten.mul.Tensor(aten.sum.default(ones), 7))
            o, d = of(o, aten.mul.Tensor(o, r)), of(d, aten.mul.Tensor(d, r))
            k = aten.mul.Tensor(aten.sub.Tensor(x, o), aten.reciprocal.default(d))
            k = aten.clamp.default(k, 0, 7)
            y = aten.add.Tensor(aten.mul.Tensor(of(aten.round.default(k), k), d), o)
            dense = abc.quantize_weight.default(w, False, 1, 2, "alternating", True)
            return aten.linear.default(y, dense, None)
    Declines::
        def f(x: f32[2, 64], w: f32[16, 64], s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "coded", True, 4)  # have 4 planes
    Declines::
        def f(x: f32[2, 64], w: f32[16, 64], s: f32[3], t: f32[3]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "thermometer", True)  # keep their own
    """

    root = (abc.linear.default, abc.convolution.default)

    def match(self, node: Node) -> tuple:
        layer = view(node)
        plan = LayerPlan.of_arguments(*layer.plan)
        if plan.grad_bases:
            decline(f"its gradients have {plan.grad_bases} planes: they are products on bits")
        if plan.levels != "coded" or plan.ste != "identity":
            decline(f"{plan.levels} levels by the rule {plan.ste!r} keep their own adjoint")
        return layer, plan

    def rewrite(self, b: Builder, layer: AbcLinearView | AbcConvView, plan: LayerPlan) -> Node:
        dtype = dtype_of(layer.input)
        *_, transposed, _, groups = layer.geometry if isinstance(layer, AbcConvView) else (False, None, 1)
        x = inline(
            b,
            lambda x, scale, shift: ste.fake_quantize(x, scale, shift, plan.activation_bases),
            *(layer.input, layer.scale, layer.shift),
        )
        weight = b(
            abc.quantize_weight.default, layer.weight, transposed, groups, plan.weight_bases, plan.basis,
            plan.per_channel,
        )  # fmt: skip
        weight, bias = (as_dtype(b, operand, dtype) for operand in (weight, layer.bias))
        if isinstance(layer, AbcConvView):
            return keep_strides(b, b(aten.convolution.default, x, weight, bias, *layer.geometry))
        return b(aten.linear.default, x, weight, bias)


def simulate(gm: GraphModule) -> Report:
    return apply_rules(gm, (SimulatedLayer(),))
