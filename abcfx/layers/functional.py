"""The quantized form of a functional layer: F.linear, F.conv2d, x @ W … on Parameters that the calling module owns."""

from __future__ import annotations

from typing import TypeGuard

import torch
from torch import Tensor, nn

from abcfx.layers.base import ABCLayer
from abcfx.plan import LayerPlan


def owns_weight(module: nn.Module) -> TypeGuard[ABCLayer]:
    """Whether this is a quantized layer with a weight of its own; that of a functional one is another module's."""
    return isinstance(module, ABCLayer) and not isinstance(module, ABCFunctional)


class ABCFunctional(ABCLayer):
    """y = op(Â, Ŵ) + bias with weight and bias as arguments: they stay registered where they were, and only there.

    geometry   () for a linear layer (weight f[o, k]), else stride … groups as aten.convolution takes them

    Its own state is `activation_scale` and `activation_shift`, in the dtype and on the device of `weight`.
    """

    def __init__(self, plan: LayerPlan, name: str, weight: Tensor, geometry: tuple = ()) -> None:
        nn.Module.__init__(self)
        self.geometry = geometry
        self.__dict__["weight"] = weight  # read, not registered, by adopt_plan
        self.adopt_plan(plan, name)
        del self.__dict__["weight"]

    @property
    def channel_dim(self) -> int:
        return -1 - len(self.geometry[0]) if self.geometry else -1

    def forward(self, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        if self.geometry and input.dim() == len(self.geometry[0]) + 1:
            return self(input.unsqueeze(0), weight, bias).squeeze(0)
        if self.observer is not None:
            self.observer(self, input)
            if self.geometry:
                return torch.ops.aten.convolution.default(input, weight, bias, *self.geometry)
            return torch.nn.functional.linear(input, weight, bias)
        op = torch.ops.abc.convolution.default if self.geometry else torch.ops.abc.linear.default
        return self.run_op(op, input, weight, bias, *self.geometry)
