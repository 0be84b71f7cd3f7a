"""Both products of a backward pass on bits, for stochastically rounded gradients (abcfx/quant/gradients.py).

    dx̂ = Σ_p conv_transposed(round(α_p·g), B_p)               one step for each sample
    dŴ[o] = conv_weight(round(g[o]), x̂)                       one step for each output channel

with Ŵ = Σ_p α_p B_p and x̂ = Σ_q β_q A_q + c. Each is the exact adjoint of the float convolution on the rounded
gradient, up to the order of f32 sums, made by the products of the forward pass (abc_k.conv2d, abc_k.linear): in dx̂ the
α are folded into the gradient, whose codes are the activations of one ±1 convolution with M·O input channels; in dŴ
the planes of x̂ are the weight bases of a linear layer whose depth are the output positions.

The functions are compositions of abc_k ops, without autograd. `seed` is int64[1]; two products of one gradient should
get different seeds, or the noise of dx̂ and dŴ is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from abcfx.ops.kernel_weights import lanes_of
from abcfx.quant import activations, gradients

k = torch.ops.abc_k


def refusal(stride: Sequence[int], dilation: Sequence[int], transposed: bool, groups: int, dims: int) -> str | None:
    """Why a convolution's backward products are made in float; None if they run on planes."""
    if transposed:
        return "transposed: its gradients are those of another layout"
    if groups != 1:
        return f"{groups} groups: the positions of a group would be packed apart, for products of few columns"
    if dims > 2:
        return f"{dims} dimensions: the kernels have two"
    if any(s > 1 and d > 1 for s, d in zip(stride, dilation, strict=True)):
        return f"stride {list(stride)} with dilation {list(dilation)}: no dense phases"
    return None


def extremes(grad: Tensor) -> tuple[Tensor, Tensor]:
    """(smallest, largest) f32[n, O] of each sample and channel of grad [n, O, h, w] or [rows, O]; NaN stays NaN."""
    if grad.dim() == 2:
        return grad, grad
    return grad.amin((2, 3)), grad.amax((2, 3))


def sample_step(smallest: Tensor, largest: Tensor, alpha: Tensor, planes: int) -> Tensor:
    """f32[n]: the step of all α_p[o]·g[n, o] of a sample, from `extremes`."""
    ends = smallest.unsqueeze(1) * alpha, largest.unsqueeze(1) * alpha
    return gradients.gradient_step(torch.minimum(*ends).amin((1, 2)), torch.maximum(*ends).amax((1, 2)), planes)


def channel_step(smallest: Tensor, largest: Tensor, planes: int) -> Tensor:
    """f32[O]: the step of each output channel, from `extremes`."""
    return gradients.gradient_step(smallest.amin(0), largest.amax(0), planes)


def code_levels(planes: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift f32[1] with which the pack kernels keep codes as they are."""
    scale, shift = gradients.code_levels(planes)
    return like.new_full((1,), scale, dtype=torch.float32), like.new_full((1,), shift, dtype=torch.float32)


class Phase(NamedTuple):
    """Inputs first, first + stride, ... of one axis: a stride-1 correlation with taps first_tap, first_tap + stride ...

    From y = i·s + k·d - p follows, with (a + p) = s·t0 + r and k = r + s·m,

        dx[a + s·j] = Σ_m g[j + t0 - d·m]·W[r + s·m]

    which reads the gradient from `before` = d·(taps - 1) - t0 before j on, with the taps reversed.
    """

    first: int
    count: int
    first_tap: int
    taps: int
    before: int
    after: int


def phases(size: int, out: int, kernel: int, stride: int, padding: int, dilation: int) -> list[Phase]:
    """The phases of one axis that have both inputs and taps; inputs of the others have gradient 0."""
    found = []
    for first in range(min(stride, size)):
        t0, first_tap = divmod(first + padding, stride)
        count, taps = len(range(first, size, stride)), len(range(first_tap, kernel, stride))
        if taps:
            found.append(Phase(first, count, first_tap, taps, dilation * (taps - 1) - t0, count + t0 - out))
    return found


def input_grad_on_planes(
    grad: Tensor,
    bases: Tensor,
    alpha: Tensor,
    planes: int,
    seed: Tensor,
    geometry: tuple,
    kernel: Sequence[int],
    input_size: Sequence[int],
    method: str = "lut",
    ends: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """dx̂ f32 [n, C, H, W], channels last in memory.

    grad        f32 [n, O, oh, ow]         any strides, channels last is fastest
    bases       int8 ±1 [M, O, kh·kw, C]   alpha f32 [M, O]
    geometry    (stride, padding, dilation, ...) of two dimensions each; what `refusal` accepts
    kernel      (kh, kw)     input_size  (H, W)
    ends        `extremes(grad)`, if known
    """
    n, outputs = grad.shape[:2]
    m, channels = bases.shape[0], bases.shape[-1]
    axes = [phases(input_size[i], grad.shape[2 + i], kernel[i], *(geometry[j][i] for j in range(3))) for i in range(2)]
    step = sample_step(*(extremes(grad) if ends is None else ends), alpha, planes)
    codes = k.round_gradient(grad, alpha, gradients.inverse_step(step), seed, planes)
    levels = code_levels(planes, grad)
    pad = [max([0, *(side for phase in axis for side in (phase.before, phase.after))]) for axis in axes]
    bits = k.pack_image(codes, *levels, planes, "coded", 1, pad)
    signs = bases.view(m, outputs, *kernel, channels)
    sums = sums_over_rows(bases.view(m * outputs, -1)).view(*kernel, channels)

    def phase_grad(high: Phase, wide: Phase) -> Tensor:
        """f32 [n, count, count, C]"""
        strides = geometry[0]
        taps = slice(high.first_tap, None, strides[0]), slice(wide.first_tap, None, strides[1])
        weight = (
            signs[(..., *taps, slice(None))].flip(2, 3).permute(4, 2, 3, 0, 1).reshape(1, channels, -1, m * outputs)
        )
        tap_sums = sums[taps].flip(0, 1).reshape(-1, channels).t().contiguous()
        y = k.conv2d(
            bits, k.pack_weights(weight, 1, lanes_of(method, grad.device)), alpha.new_ones((1, channels)),
            tap_sums, None, *levels, "coded", m * outputs,
            [high.taps, wide.taps], [1, 1], pad, geometry[2], 1,
        )  # fmt: skip
        y.mul_(step.view(n, 1, 1, 1))  # in place: a fresh tensor of this size costs as much as the pass
        y = y[:, pad[0] - high.before :, pad[1] - wide.before :]
        return y[:, : high.count, : wide.count].contiguous()

    if list(geometry[0]) == [1, 1]:
        return phase_grad(axes[0][0], axes[1][0]).permute(0, 3, 1, 2)
    dx = grad.new_zeros((n, *input_size, channels))
    for high in axes[0]:
        for wide in axes[1]:
            dx[:, high.first :: geometry[0][0], wide.first :: geometry[0][1]] = phase_grad(high, wide)
    return dx.permute(0, 3, 1, 2)


def linear_input_grad_on_planes(
    grad: Tensor, bases: Tensor, alpha: Tensor, planes: int, seed: Tensor, method: str = "lut"
) -> Tensor:
    """dx̂ f32 [rows, C] of a linear layer; grad f32 [rows, O], bases int8 ±1 [M, O, 1, C], alpha f32 [M, O]."""
    outputs, channels = alpha.numel(), bases.shape[-1]
    step = sample_step(*extremes(grad), alpha, planes)
    levels = code_levels(planes, grad)
    codes = k.round_gradient(grad, alpha, gradients.inverse_step(step), seed, planes)
    weight = bases.permute(3, 2, 0, 1).reshape(1, channels, 1, outputs)
    y = k.linear(
        k.pack_rows(codes, *levels, planes, "coded"), k.pack_weights(weight, 1, lanes_of(method, grad.device)),
        alpha.new_ones((1, channels)), sums_over_rows(bases.view(outputs, channels)).unsqueeze(1), None, *levels,
        "coded", outputs,
    )  # fmt: skip
    return y.mul_(step.unsqueeze(1))


def weight_grad_on_planes(
    grad: Tensor,
    bits: Tensor,
    scale: Tensor,
    shift: Tensor,
    levels: str,
    planes: int,
    seed: Tensor,
    geometry: tuple,
    weight_shape: Sequence[int],
    method: str = "lut",
    ends: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """dŴ f32 [O, C, kh, kw], channels last in memory.

    grad          f32 [n, O, oh, ow]      any strides, channels last is fastest
    bits          int64 [n, H+2ph, N, W+2pw, words], the packed input of the forward pass, padding included
    scale, shift, levels                  of the activations
    geometry      (stride, padding, dilation, ...) of two dimensions each; what `refusal` accepts
    ends          `extremes(grad)`, if known

    x̂ is Σ_q β_q A_q + c inside the image and 0 outside, where the planes read Σ_q β_q = B: with S[o, t] the sum of the
    codes over the positions at which tap t is inside (outside) the image,

        dŴ[o, t, c] = step[o]·(product of the planes + c·S_inside[o, t] - B·S_outside[o, t])
    """
    outputs, channels, *kernel = weight_shape
    out = grad.shape[2:]
    step = channel_step(*(extremes(grad) if ends is None else ends), planes)
    codes = k.round_gradient(
        grad, gradients.inverse_step(step).unsqueeze(0), grad.new_ones(1, dtype=torch.float32), seed, planes
    )
    beta, constant = activations.coefficients(scale, shift, bits.shape[2], levels)
    rows = codes.transpose(0, 1).reshape(outputs, -1)
    product = positions_product(rows, bits, beta, planes, (kernel, geometry[0], geometry[2], out), channels, method)
    sums = sums_over_images(codes).double()  # no lower matmul precision that a user sets may round them
    inside = torch.einsum("oyx,ty,sx->ots", sums, *masks(bits, kernel, out, geometry))
    outside = sums.sum((1, 2)).view(-1, 1, 1) - inside
    correction = (constant * inside - beta.sum() * outside).float().unsqueeze(-1)
    dw = (product.view(outputs, *kernel, channels) + correction) * step.view(-1, 1, 1, 1)
    return dw.permute(0, 3, 1, 2)


def linear_weight_grad_on_planes(
    grad: Tensor,
    bits: Tensor,
    scale: Tensor,
    shift: Tensor,
    levels: str,
    planes: int,
    seed: Tensor,
    channels: int,
    method: str = "lut",
) -> Tensor:
    """dŴ f32 [O, C] of a linear layer; grad f32 [rows, O], bits int64 [N, rows, words] of its C input channels."""
    step = channel_step(*extremes(grad), planes)
    codes = k.round_gradient(
        grad, gradients.inverse_step(step).unsqueeze(0), grad.new_ones(1, dtype=torch.float32), seed, planes
    )
    beta, constant = activations.coefficients(scale, shift, bits.shape[0], levels)
    line = bits.unsqueeze(0).unsqueeze(0)
    shape = ([1, 1], [1, 1], [1, 1], [1, grad.shape[0]])
    product = positions_product(codes.t(), line, beta, planes, shape, channels, method)
    return (product + (constant * sums_over_images(codes)).unsqueeze(1)) * step.unsqueeze(1)


def positions_product(
    rows: Tensor, bits: Tensor, beta: Tensor, planes: int, shape: tuple, channels: int, method: str
) -> Tensor:
    """Σ_r codes[o, r]·Σ_q β_q A_q[pixel(r, t), c] → f32 [O, kernel·C]; rows bf16 [O, n·oh·ow] of codes, any strides."""
    kernel, stride, dilation, out = shape
    depth = rows.shape[1]
    packed, counts = k.pack_positions(bits, channels, kernel, stride, dilation, out, lanes_of(method, bits.device))
    levels = code_levels(planes, rows)
    tap_sums = (beta.unsqueeze(1) * (depth - 2 * counts)).sum(0)
    alpha = beta.unsqueeze(1).expand(counts.shape).contiguous()
    packed_rows = k.pack_rows(rows, *levels, planes, "coded")
    return k.linear(packed_rows, packed, alpha, tap_sums.unsqueeze(1), None, *levels, "coded", depth)


def sums_over_rows(signs: Tensor) -> Tensor:
    """Σ_r signs[r, c] of int8 ±1 → f32 [c]. Sums of 64 rows fit into the int8 that they are added in: 20 times as fast
    as widening first.
    """
    whole = signs.shape[0] // 64 * 64
    sums = signs[:whole].view(-1, 64, signs.shape[1]).sum(1, dtype=torch.int8).sum(0, dtype=torch.int32)
    return (sums + signs[whole:].sum(0, dtype=torch.int8)).float()


def sums_over_images(codes: Tensor) -> Tensor:
    """Σ_n codes[n, ...] → f32, exact; one product, since torch's sums of bf16 over a dimension are slow."""
    flat = codes.movedim(1, -1).reshape(codes.shape[0], -1).float()
    sums = (flat.new_ones((1, codes.shape[0])) @ flat).view(*codes.shape[2:], codes.shape[1])
    return sums.movedim(-1, 0)


def masks(bits: Tensor, kernel: Sequence[int], out: Sequence[int], geometry: tuple) -> tuple[Tensor, Tensor]:
    """f64 [kh, oh] and [kw, ow]: 1 where a tap of an output position lies inside the image."""

    def mask(axis: int, padded: int) -> Tensor:
        stride, padding, dilation = (geometry[i][axis] for i in range(3))
        taps = torch.arange(kernel[axis], device=bits.device).unsqueeze(1) * dilation
        at = taps + torch.arange(out[axis], device=bits.device) * stride
        return ((at >= padding) & (at < padded - padding)).double()

    return mask(0, bits.shape[1]), mask(1, bits.shape[3])
