"""The oracle of every quantized layer: the float op on the dequantized operands (DESIGN: the meaning of a layer)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abcfx.layers import ABCFunctional, ABCLayer
from abcfx.ops.weight_fit import fit_bases
from abcfx.plan import LayerPlan
from abcfx.quant import activations
from abcfx.quant.weights import dequantize_bases, flatten_weight, unflatten_weight

# f32 sums of up to a few thousand terms in another order: about sqrt(k)·2^-24 relative to the norm, below 1e-5
TOLERANCE = 1e-5


def relative_error(got: Tensor, want: Tensor) -> float:
    """‖got − want‖ / ‖want‖ in f64."""
    got, want = got.detach().double(), want.detach().double()
    return float((got - want).norm() / want.norm().clamp_min(1e-30))


def dequantized_weight(weight: Tensor, plan: LayerPlan, transposed: bool, groups: int) -> Tensor:
    """Ŵ = Σ_p α_p B_p in f32, from a fit of its own."""
    return fitted_weight(weight, plan, transposed, groups)[0]


def fitted_weight(weight: Tensor, plan: LayerPlan, transposed: bool, groups: int) -> tuple[Tensor, Tensor]:
    """Ŵ and its scales α f32[M, o]."""
    flat = flatten_weight(weight.detach().float(), transposed, groups)
    bases, scales = fit_bases(flat.flatten(1), plan.weight_bases, plan.basis, plan.per_channel)
    dense = unflatten_weight(dequantize_bases(bases, scales).view(flat.shape), weight.shape, transposed, groups)
    return dense, scales


def layer_oracle(layer: ABCLayer, input: Tensor, *operands: Tensor | None) -> Tensor:
    """Runs the float layer's own forward, in f64, on Â and Ŵ: padding modes pad the quantized input.

    `operands` are the weight and bias of a functional layer, which gets them at each call. An output correction
    (abcfx/correction.py) is the same affine map per channel, which scales Ŵ and moves the bias.
    """
    return layer.correct(_uncorrected(layer, input, *operands))


def _uncorrected(layer: ABCLayer, input: Tensor, *operands: Tensor | None) -> Tensor:
    plan = layer.plan
    scale, shift = layer.activation_scale.detach().float(), layer.activation_shift.detach().float()
    x = activations.quantize(input.detach().float(), scale, shift, plan.activation_bases, plan.levels).double()
    weight, bias = operands if operands else (layer.weight, layer.bias)
    bias = None if bias is None else bias.detach().double()
    if isinstance(layer, ABCFunctional):
        transposed, groups = (layer.geometry[3], layer.geometry[5]) if layer.geometry else (False, 1)
        weight = dequantized_weight(weight, layer.plan, transposed, groups).double()
        if layer.geometry:
            return torch.ops.aten.convolution.default(x, weight, bias, *layer.geometry)
        return F.linear(x, weight, bias)
    transposed = isinstance(layer, nn.modules.conv._ConvTransposeNd)
    float_type: Any = next(t for t in type(layer).__mro__ if t.__module__.startswith("torch.nn.modules"))
    twin = float_type.__new__(float_type)
    twin.__dict__.update({k: v.copy() if isinstance(v, dict) else v for k, v in layer.__dict__.items()})
    weight = dequantized_weight(weight, layer.plan, transposed, getattr(layer, "groups", 1)).double()
    twin._parameters = {"weight": nn.Parameter(weight), "bias": None if bias is None else nn.Parameter(bias)}
    with torch.no_grad():
        return float_type.forward(twin, x)


class PerLayerError:
    """Hooks every quantized layer of a model and compares what it returns with the oracle on the input it got."""

    def __init__(self, model: nn.Module) -> None:
        self.errors: dict[str, float] = {}
        self.handles = [
            module.register_forward_hook(self._compare) for module in model.modules() if isinstance(module, ABCLayer)
        ]

    def remove(self) -> None:
        for handle in self.handles:
            handle.remove()

    def _compare(self, layer: ABCLayer, args: tuple[Tensor | None, ...], output: Tensor) -> None:
        if torch.compiler.is_compiling():
            return
        error = relative_error(output, layer_oracle(layer, *args))
        self.errors[layer.abc_name] = max(error, self.errors.get(layer.abc_name, 0.0))
