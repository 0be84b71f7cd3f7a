"""abc_k::window_bits, window_adjoint: the straight-through adjoint of the activation quantizer, from bits.

The forward keeps 2 bits (coded levels) or 2·N bits (thermometer) of every activation instead of its 32; the formulas,
and why they are right on average, are in abcfx/quant/ste.py.

Bits are laid out in the order in which the elements lie in memory, whatever the dimensions are called: nothing is
transposed for channels_last. So the input must be dense (a permutation of a contiguous tensor; `dense` makes it so),
and the gradient must have its strides.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.ops import library
from abcfx.ops.schema import ABC_K
from abcfx.quant import bits, ste

ABC_K.define(
    "window_bits(Tensor input, Tensor scale, Tensor shift, int planes, str levels, Tensor? edges=None) -> Tensor"
)
ABC_K.define(
    "window_adjoint(Tensor grad, Tensor windows, Tensor scale, int planes, str levels, "
    "Tensor? sample_scale=None) -> (Tensor, Tensor, Tensor)"
)


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill their memory without gaps or overlap, in any order of the dimensions."""
    step = 1
    for stride, size in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if size != 1 and tensor.numel():
            if stride != step:
                return False
            step *= size
    return True


def dense(tensor: Tensor) -> Tensor:
    """The tensor, or a contiguous copy if it has gaps or overlaps."""
    return tensor if is_dense(tensor) else tensor.contiguous()


def window_bits(
    input: Tensor, scale: Tensor, shift: Tensor, planes: int, levels: str, edges: Tensor | None = None
) -> Tensor:
    """input f32, bf16 or f16, dense → uint8 [S, ⌈numel/8⌉], the bits of `ste.activation_windows`, in memory order.

    S is 2 (coded) or 2·planes (thermometer). Bit b of byte i is element 8·i + b; bits past the last element are 0.
    edges f32[2, planes] are those of `ste.thermometer_windows`; coded levels have none.

    Raises ValueError for an input that is not dense, and for thermometer levels without edges.
    """
    flat = _memory_order("window_bits", "input", input)
    return bits.pack_bytes(ste.activation_windows(flat, scale, shift, planes, levels, edges))


def window_adjoint(
    grad: Tensor, windows: Tensor, scale: Tensor, planes: int, levels: str, sample_scale: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """(dx, dscale, dshift) of `ste.window_adjoint` for grad·sample_scale, from the bits of `window_bits`.

    grad          f32[n, ...], dense, with the strides of the input of `window_bits` (not checked: bits have none)
    windows       uint8[S, ⌈numel/8⌉]
    scale         f32[1] (coded) or the slopes f32[planes] of `ste.thermometer_windows`
    sample_scale  f32[n] or None: one factor for all of grad[i]; samples must then follow each other in memory
    →             dx f32 with the strides of grad; dscale and dshift f32[1] (coded) or f32[planes]

    Raises ValueError for a gradient that is not dense or, with sample_scale, has its samples interleaved.
    """
    flat = _memory_order("window_adjoint", "grad", grad)
    if sample_scale is not None:
        if grad.numel() and grad.shape[0] > 1 and grad.stride(0) * grad.shape[0] != grad.numel():
            raise ValueError(
                "abc_k::window_adjoint: sample_scale needs samples that follow each other in memory, got strides "
                f"{tuple(grad.stride())} of shape {tuple(grad.shape)}; multiply grad before the call"
            )
        flat = (flat.view(grad.shape[0], -1) * sample_scale[:, None]).view(-1) if grad.numel() else flat
    dx, dscale, dshift = ste.window_adjoint(flat, bits.unpack_bytes(windows, grad.numel()), scale, planes, levels)
    return dx.as_strided(grad.shape, grad.stride()), dscale, dshift


def _memory_order(op: str, name: str, tensor: Tensor) -> Tensor:
    if not is_dense(tensor):
        raise ValueError(
            f"abc_k::{op}: {name} must be dense (a permutation of a contiguous tensor), got strides "
            f"{tuple(tensor.stride())} of shape {tuple(tensor.shape)}; call contiguous()"
        )
    return tensor.as_strided((tensor.numel(),), (1,))


library.register_reference(ABC_K, "window_bits", window_bits)
library.register_reference(ABC_K, "window_adjoint", window_adjoint)


@torch.library.register_fake("abc_k::window_bits", lib=ABC_K)
def _(input, scale, shift, planes, levels, edges=None) -> Tensor:
    count = 2 if levels == "coded" else 2 * planes
    return input.new_empty((count, (input.numel() + 7) // 8), dtype=torch.uint8)


@torch.library.register_fake("abc_k::window_adjoint", lib=ABC_K)
def _(grad, windows, scale, planes, levels, sample_scale=None) -> tuple[Tensor, Tensor, Tensor]:
    entries = 1 if levels == "coded" else planes
    return torch.empty_like(grad), grad.new_empty((entries,)), grad.new_empty((entries,))
