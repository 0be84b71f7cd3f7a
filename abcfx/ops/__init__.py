"""Operators: `torch.ops.abc.*` (quantized layers, differentiable) and `torch.ops.abc_k.*` (bits and kernels)."""

from abcfx.ops import (  # noqa: F401  importing registers
    activation,
    convolution,
    kernel_conv,
    kernel_linear,
    kernel_pack,
    kernel_refit,
    kernel_weights,
    linear,
    weight,
)
