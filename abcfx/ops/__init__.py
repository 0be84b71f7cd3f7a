"""Operators: `torch.ops.abc.*` (quantized layers, differentiable) and `torch.ops.abc_k.*` (bits and kernels)."""

from abcfx.ops import (  # noqa: F401  importing registers
    activation,
    convolution,
    kernel_chain,
    kernel_conv,
    kernel_emit,
    kernel_gradients,
    kernel_linear,
    kernel_pack,
    kernel_pool,
    kernel_positions,
    kernel_refit,
    kernel_taps,
    kernel_unpack,
    kernel_weights,
    kernel_window,
    linear,
    product,
    product_adjoint,
    saved_activation,
    weight,
)
