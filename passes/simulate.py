"""abc → aten, for training: simulated quantization, the float op on x̂ and Ŵ with the derivatives of the adjoints.

Where processors have dense products that are as fast as those on bits for the few channels of a small network (bfloat16
on AMX, tensor cores), a training step gains more from what this leaves to inductor: the quantizer, its gradient, batch
norm and activation become one loop over memory, and activations stay in the dtype that autocast gives them.

Source of the term: Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-
Only Inference", section 3.
"""

from __future__ import annotations

import torch
from abcfx.passes._rule import Report, Rule, apply_rules, decline
from abcfx.passes.lower import as_dtype, float_op, quantized_weight, recipe_of
from abcfx.passes.rewrite_abc import keep_strides
from torch.fx import GraphModule, Node

import abcfx.ops  # noqa: F401  defines torch.ops.abc
from abcfx.graph import AbcConvView, AbcLinearView, Builder, dtype_of, view
from abcfx.plan import LayerPlan

abc = torch.ops.abc


class SimulatedLayer(Rule):
    """abc layer  →  aten op on fake_quantize(x) and quantize_weight(w), in the dtype of x.

    Holds because that is what the layer is defined to compute; in bfloat16 x̂ and Ŵ are rounded to 8 bits, sums are
    not. Both ops have rows in passes/adjoint.py, so that the gradients are those of the layer; nothing is kept in bits,
    and the gradient of the step of levels is not dithered.

    Before::
        def f(x: f32[2, 8], w: f32[16, 8], s: f32[1], t: f32[1]):
            return abc.linear.default(x, w, None, s, t, 2, 3, "alternating", "coded", True)
    After::
        def f(x: f32[2, 8], w: f32[16, 8], s: f32[1], t: f32[1]):
            y = abc.fake_quantize.default(x, s, t, 3)
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
        if plan.levels != "coded" or plan.ste == "abc":
            decline(f"{plan.levels} levels by the rule {plan.ste!r} keep their own adjoint")
        return layer, plan

    def rewrite(self, b: Builder, layer: AbcLinearView | AbcConvView, plan: LayerPlan) -> Node:
        dtype = dtype_of(layer.input)
        rule = () if plan.ste == "identity" else (plan.ste,)
        x = b(abc.fake_quantize.default, layer.input, layer.scale, layer.shift, plan.activation_bases, *rule)
        weight = quantized_weight(b, layer, recipe_of(layer, plan))
        weight, bias = (as_dtype(b, operand, dtype) for operand in (weight, layer.bias))
        return keep_strides(b, float_op(b, layer, x, weight, bias))


def simulate(gm: GraphModule) -> Report:
    return apply_rules(gm, (SimulatedLayer(),))
