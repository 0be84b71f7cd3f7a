"""The quantized nn.Linear."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from abcfx.layers.base import ABCLayer


class ABCLinear(ABCLayer, nn.Linear):
    """y = Â·Ŵᵀ + bias: `torch.ops.abc.linear` on the Parameters of the nn.Linear it replaces.

    input f[..., in_features] → f[..., out_features]. Raises NotCalibratedError before calibration.
    """

    @property
    def channel_dim(self) -> int:
        return -1

    def forward(self, input: Tensor) -> Tensor:
        if self.observer is not None:
            self.observer(self, input)
            return F.linear(input, self.weight, self.bias)
        return self.run_op(torch.ops.abc.linear.default, input, self.weight, self.bias)
