"""Straight-through adjoints: what is passed back through quantizers whose derivative is zero almost everywhere.

Each adjoint is the derivative of the forward equation with one factor replaced; the replacement stands beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from abcfx.quant.activations import require_levels
from abcfx.quant.weights import flatten_weight, unflatten_weight


def activation_adjoint(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (x, scale, shift) of `activations.quantize` from the gradient of x̂.

    grad   [...]          gradient of x̂
    x      [...]          input of the forward
    →      dx [...] in x's dtype, dscale and dshift f32 in the shapes of scale and shift

    coded        x̂ = Δ·clamp(⌊t⌉, 0, K) + o,  t = (x - o)/Δ,  K = 2^N - 1;   STE: ∂⌊t⌉/∂t = 1
                     ∂x̂/∂x = 1 inside (0 <= t <= K), else 0
                     ∂x̂/∂Δ = ⌊t⌉ - t inside, else 0 below and K above
                     ∂x̂/∂o = 0 inside, else 1
                 dscale and dshift are then multiplied by 1/√(numel(x)·K): both would otherwise outgrow the gradients
                 of the weights, by the number of terms they sum and by the fineness of the step.
                 Source: LSQ (Esser 2020, eq. 3 and section 2.2); the shift LSQ+ (Bhalgat 2020, eq. 5 and 6).
    thermometer  x̂ = Σ_q β_q·A_q,  A_q = sign(clip(x + v_q, 0, 1) - 0.5);   STE: ∂A/∂(x + v) = [0 <= x + v <= 1]
                     ∂x̂/∂x = Σ_q β_q·[0 <= x + v_q <= 1],   ∂x̂/∂v_q = β_q·[0 <= x + v_q <= 1],   ∂x̂/∂β_q = A_q
                 The window is absolute: it is meant for activations of unit range.
                 Source: ABC-Net (Lin, Zhao, Pan 2017), eq. 7 to 10.

    A NaN in x takes no gradient and counts as lying below every level.
    """
    require_levels(levels)
    adjoint = _coded_adjoint if levels == "coded" else _thermometer_adjoint
    dx, dscale, dshift = adjoint(grad.to(torch.float32), x.to(torch.float32), scale, shift, activation_bases)
    return dx.to(x.dtype), dscale, dshift


def weight_adjoint(grad_w_hat: Tensor, scales: Tensor, transposed: bool = False, groups: int = 1) -> Tensor:
    """Gradient of w from the gradient of ŵ = Σ_p α_p(w) B_p(w) by the rule of ABC-Net.

    identity  dw = dŵ                STE: ∂ŵ/∂w = 1. The fit follows w, so that ŵ moves with w on average
    abc       dw = Σ_p α_p²·dŵ       STE: ∂B_p/∂w = 1 with α fixed: Σ_p α_p·∂c/∂B_p and ∂c/∂B_p = α_p·dŵ.
                                     Source: ABC-Net (Lin, Zhao, Pan 2017), eq. 5

    The first needs no function; this is the second.

    grad_w_hat   in the layout of the layer's weight      scales   f32[p, o] = α
    """
    flat = flatten_weight(grad_w_hat, transposed, groups)
    scaled = flat * scales.square().sum(0).view(-1, 1, 1).to(flat.dtype)
    return unflatten_weight(scaled, grad_w_hat.shape, transposed, groups)


def _coded_adjoint(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int
) -> tuple[Tensor, Tensor, Tensor]:
    top = 2**activation_bases - 1
    t = (x - shift[0]) * scale[0].reciprocal()
    above, inside = t > top, (t >= 0) & (t <= top)
    # counted by a sum: a power of a symbolic size is a number that compilers cannot trace
    count = x.new_ones(()).expand(x.shape).sum().clamp_min(1)
    rate = (count * top).rsqrt()
    slope = torch.where(inside, t.round() - t, above.to(torch.float32) * top)
    dscale, dshift = (grad * slope).sum() * rate, (grad * ~inside).sum() * rate
    return grad * inside, dscale.reshape(scale.shape), dshift.reshape(shift.shape)


def _thermometer_adjoint(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dscale, dshift = torch.zeros_like(x), [], []
    for q in range(activation_bases):
        moved = x + shift[q]
        window = grad * ((moved >= 0) & (moved <= 1))
        dx = dx + scale[q] * window
        dshift.append(scale[q] * window.sum())
        dscale.append((grad * torch.where(x >= 0.5 - shift[q], 1.0, -1.0)).sum())
    return dx, torch.stack(dscale), torch.stack(dshift)
