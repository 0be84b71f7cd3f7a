"""Straight-through adjoints: what is passed back through quantizers whose derivative is zero almost everywhere.

Each adjoint is the derivative of the forward equation with one factor replaced; the replacement stands beside it.
What the adjoint of activations must remember of its input fits in bits: `activation_windows`, `window_adjoint`.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from abcfx.quant.activations import require_levels
from abcfx.quant.weights import flatten_weight, unflatten_weight


def activation_adjoint(
    grad: Tensor,
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    activation_bases: int,
    levels: str,
    rule: str = "identity",
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of (x, scale, shift) of `activations.quantize` from the gradient of x̂.

    grad   [...]          gradient of x̂
    x      [...]          input of the forward
    →      dx [...] in x's dtype, dscale and dshift f32 in the shapes of scale and shift

    coded        x̂ = Δ·clamp(⌊t⌉, 0, K) + o,  t = (x - o)/Δ,  K = 2^N - 1;   STE: ∂⌊t⌉/∂t = 1
                     ∂x̂/∂x = 1 inside (0 <= t <= K), else 0; by the rule "triangle" 4·|⌊t⌉ - t| inside: 2 at the
                     thresholds, 0 at the levels, 1 on average, as the staircase is steep at its steps only
                     ∂x̂/∂Δ = ⌊t⌉ - t inside, else 0 below and K above
                     ∂x̂/∂o = 0 inside, else 1
                 dscale and dshift are then multiplied by 1/√(numel(x)·K): both would otherwise outgrow the gradients
                 of the weights, by the number of terms they sum and by the fineness of the step.
                 Source: LSQ (Esser 2020, eq. 3 and section 2.2); the shift LSQ+ (Bhalgat 2020, eq. 5 and 6); the
                 triangle Bi-Real Net (Liu 2018, eq. 7), for two levels.
    thermometer  x̂ = Σ_q β_q·A_q,  A_q = sign(clip(x + v_q, 0, 1) - 0.5)
                     ∂x̂/∂x = Σ_q ∂x̂/∂v_q,   ∂x̂/∂v_q = slope_q·[x in window_q],   ∂x̂/∂β_q = A_q
                 windows and slopes by the `rule`, "identity" or "abc": see `thermometer_windows`

    A NaN in x takes no gradient and counts as lying below every level.
    """
    require_levels(levels)
    grad, wide = grad.to(torch.float32), x.to(torch.float32)
    if levels == "coded":
        dx, dscale, dshift = _coded_adjoint(grad, wide, scale, shift, activation_bases, rule)
    else:
        edges, slopes = thermometer_windows(scale, shift, rule)
        dx, dscale, dshift = _thermometer_gradients(grad, _thermometer_planes(wide, shift, edges), slopes)
    return dx.to(x.dtype), dscale, dshift


def thermometer_windows(scale: Tensor, shift: Tensor, rule: str) -> tuple[Tensor, Tensor]:
    """Where the straight-through rule lets a gradient pass each step of thermometer levels, and times what.

    scale, shift   f[N] = β, v; thresholds t_q = 0.5 - v_q in any order
    →              edges f[2, N], the least and the greatest x of every window; slopes f[N]

    identity  The windows tile: ∂x̂/∂x is the mean slope of the staircase there. With thresholds in ascending order,
                  window_q = [e_q, e_{q+1}),  slope_q = 2·β_q / max(e_{q+1} - e_q, |β_q|)
                  e_q = t_{q-1} + (t_q - t_{q-1})·|β_{q-1}| / (|β_{q-1}| + |β_q|),  e_0 = t_0 - |β_0|,
                  e_N = t_{N-1} + |β_{N-1}|, which belongs to the last window
              Thresholds midway between levels, as a fit has them, have the levels for edges: then all slopes are 1 and
              the rule is that of coded levels, x̂ ≈ clamp(x, l_0, l_N). |slope| <= 2 however close thresholds come.
    abc       [0 <= x + v_q <= 1] with the slope β_q: one unit wide around every threshold, whatever their spacing and
              jumps. Where no window lies no gradient passes, where several lie their slopes add up.
              Source: ABC-Net (Lin, Zhao, Pan 2017), eq. 7 to 10.

    Raises ValueError for any other rule.
    """
    if rule == "abc":
        return torch.stack([-shift, 1 - shift]), scale
    if rule != "identity":
        raise ValueError(f"ste must be identity or abc, got {rule!r}")
    thresholds, order = (0.5 - shift).sort(stable=True)
    jumps = scale.abs()[order]  # half of them
    both = jumps[:-1] + jumps[1:]
    share = torch.where(both > 0, jumps[:-1] / both, 0.5)
    inner = torch.minimum(thresholds[:-1] + thresholds.diff() * share, thresholds[1:])
    low = torch.cat([thresholds[:1] - jumps[:1], inner])
    end = thresholds[-1:] + jumps[-1:]
    widths = torch.maximum(torch.cat([inner, end]) - low, jumps).clamp_min(torch.finfo(scale.dtype).tiny)
    high = torch.cat([torch.nextafter(inner, torch.full_like(inner, -torch.inf)), end])
    place = order.argsort()
    return torch.stack([low, high])[:, place], 2 * scale / widths[place]


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


def activation_windows(
    x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, levels: str, edges: Tensor | None = None
) -> Tensor:
    """All that `window_adjoint` needs of x, as bool[S, numel].

    x   [numel]; the place of an element decides on its dither

    coded        S = 2, with t = (x - o)·(1/Δ) in f32:   inside = 0 <= t <= K
                 bit: inside, r + 0.5 > u(i) with r = ⌊t⌉ - t and the dither u(i), which makes E[bit - 0.5] = r;
                      outside, t > K
    thermometer  S = 2·N:   windows edges[0, q] <= x <= edges[1, q] of every plane (`thermometer_windows`), then minus,
                 which is A_q = -1

    A NaN lies below every level and outside of every window. Raises ValueError for thermometer levels without edges.
    """
    require_levels(levels)
    x = x.to(torch.float32)
    if levels == "thermometer":
        if edges is None:
            raise ValueError("thermometer levels need the edges of their windows, see ste.thermometer_windows")
        planes = list(_thermometer_planes(x, shift, edges))
        return torch.stack([window for window, _ in planes] + [~plus for _, plus in planes])
    t, nearest, inside = _coded_position(x, scale, shift, activation_bases)
    return torch.stack([inside, torch.where(inside, t.round() - t + 0.5 > dither(x), nearest > 0)])


def window_adjoint(
    grad: Tensor, windows: Tensor, scale: Tensor, activation_bases: int, levels: str
) -> tuple[Tensor, Tensor, Tensor]:
    """`activation_adjoint` without x: the residual ⌊t⌉ - t is replaced by bit - 0.5, of the same mean.

    grad      f32[numel]       gradient of x̂
    windows   bool[S, numel]   of `activation_windows`
    scale     Δ f32[1] (coded: not read) or the slopes f32[activation_bases] of `thermometer_windows`
    →         dx f32[numel]; dscale and dshift f32[1] (coded) or f32[activation_bases]

    All are those of `activation_adjoint` but for dscale of coded levels, which is unbiased over the dither, with the
    variance rate²·Σ g²·(1/4 - r²) over the inside.
    """
    require_levels(levels)
    if levels == "thermometer":
        window, minus = windows.split(activation_bases)
        return _thermometer_gradients(grad, zip(window, ~minus, strict=True), scale)
    inside, bit = windows
    top = 2**activation_bases - 1
    slope = torch.where(inside, bit.to(torch.float32) - 0.5, bit.to(torch.float32) * top)
    dx, dscale, dshift = _coded_gradients(grad, inside, slope, top)
    return dx, dscale.reshape(1), dshift.reshape(1)


def dither(like: Tensor) -> Tensor:
    """u(i) f32[numel] in [0, 1) for i = 0 … numel - 1: 24 bits of a fixed hash of the low 32 bits of i.

    Two rounds of multiply and xor-shift with the constants of the "lowbias32" search (Wellons 2018). The same on every
    machine: csrc/cpu/window/dither.h is the other home of it.
    """
    h = torch.arange(like.numel(), device=like.device) & 0xFFFFFFFF
    h = h ^ h >> 16
    h = h * 0x7FEB352D & 0xFFFFFFFF
    h = h ^ h >> 15
    h = h * 0x846CA68B & 0xFFFFFFFF
    h = h ^ h >> 16
    return (h >> 8).to(torch.float32) * 2.0**-24


def _coded_position(x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int) -> tuple[Tensor, Tensor, Tensor]:
    """t, the nearest value to it in [0, K], and whether that is t itself. A NaN lies below."""
    top = 2**activation_bases - 1
    t = (x - shift[0]) * scale[0].reciprocal()
    nearest = torch.where(t >= 0, t.clamp_max(top), 0.0)
    return t, nearest, nearest == t


def _coded_adjoint(
    grad: Tensor, x: Tensor, scale: Tensor, shift: Tensor, activation_bases: int, rule: str
) -> tuple[Tensor, Tensor, Tensor]:
    _, nearest, inside = _coded_position(x, scale, shift, activation_bases)
    slope = nearest.round() - torch.where(inside, nearest, 0.0)
    dx, dscale, dshift = _coded_gradients(grad, inside, slope, 2**activation_bases - 1)
    if rule == "triangle":
        dx = dx * 4 * slope.abs()
    return dx, dscale.reshape(scale.shape), dshift.reshape(shift.shape)


def _coded_gradients(grad: Tensor, inside: Tensor, slope: Tensor, top: int) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients from ∂x̂/∂x = inside, ∂x̂/∂Δ = slope, ∂x̂/∂o = not inside."""
    # a tensor: a power of a symbolic size is a number that compilers cannot trace
    count = (grad.new_ones(()) * grad.numel()).clamp_min(1)
    rate = (count * top).rsqrt()
    return grad * inside, _total(grad * slope) * rate, _total(grad * ~inside) * rate


def _total(values: Tensor) -> Tensor:
    """The sum; of each channel first, so that a compiler takes the sums of a batch norm's gradient in the same loop."""
    if values.dim() > 2:
        values = values.sum([dim for dim in range(values.dim()) if dim != 1])
    return values.sum()


def _thermometer_planes(x: Tensor, shift: Tensor, edges: Tensor) -> Iterable[tuple[Tensor, Tensor]]:
    """(x in window_q, A_q = +1) of every plane."""
    for q in range(len(shift)):
        yield (x >= edges[0, q]) & (x <= edges[1, q]), x >= 0.5 - shift[q]


def _thermometer_gradients(
    grad: Tensor, planes: Iterable[tuple[Tensor, Tensor]], slopes: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dx, dscale, dshift = torch.zeros_like(grad), [], []
    for q, (inside, plus) in enumerate(planes):
        window = grad * inside
        dx = dx + slopes[q] * window
        dshift.append(slopes[q] * window.sum())
        dscale.append((grad * torch.where(plus, 1.0, -1.0)).sum())
    return dx, torch.stack(dscale), torch.stack(dshift)
