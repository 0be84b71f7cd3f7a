"""Two operator namespaces: `abc::` means mathematics and has adjoints; `abc_k::` is bits and kernels, no autograd."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

ABC = torch.library.Library("abc", "DEF")
ABC_K = torch.library.Library("abc_k", "DEF")

# what every quantized layer op takes after its float arguments (LayerPlan.op_arguments)
PLAN_ARGUMENTS = (
    "int weight_bases, int activation_bases, str basis, str levels, bool per_channel, int grad_bases=0, "
    "bool binary_output=True, bool binary_grad_input=True, bool binary_grad_weight=True, str ste='identity'"
)
# as in aten.convolution; empty lists mean a linear layer where an op serves both
GEOMETRY_ARGUMENTS = (
    "SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool transposed, SymInt[] output_padding, SymInt groups"
)


class Geometry(NamedTuple):
    """How a weight slides over its input. Empty lists: a linear layer."""

    stride: Sequence[int] = ()
    padding: Sequence[int] = ()
    dilation: Sequence[int] = ()
    transposed: bool = False
    output_padding: Sequence[int] = ()
    groups: int = 1

    @property
    def linear(self) -> bool:
        return not self.stride


LINEAR = Geometry()
