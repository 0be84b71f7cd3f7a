"""abc::input_adjoint, abc::weight_adjoint: the two backward products of a quantized layer.

    dx̂ = adjoint of y = product(x̂, Ŵ) in x̂ at Ŵ = Σ_p α_p B_p          dŴ = adjoint in Ŵ at x̂ = Σ_q β_q A_q + c

Without a `seed` each is the float product on the dequantized operands. With one, the gradient of y is first rounded
stochastically to `grad_bases` bit planes, without bias, and the product is one of bits where there is such a kernel
(abcfx/ops/gradients.py), else a float one. What a gradient is rounded to depends on the seed alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from abcfx.ops import gradients, library, library_cuda
from abcfx.ops.choose import no_cuda_kernel
from abcfx.ops.convolution import image_of, two_dims
from abcfx.ops.product import recipe_of
from abcfx.ops.saved_activation import in_memory_format, layout_of, unpack_activation
from abcfx.ops.schema import ABC, GEOMETRY_ARGUMENTS, PLAN_ARGUMENTS, Geometry
from abcfx.ops.weight_cache import Fit, dequantized, fit_of
from abcfx.plan import LayerPlan
from abcfx.quant import gradients as quant

# Bits of a window whose popcounts f32 holds exactly, less those of a last word (csrc/include/abcfx/cuda.h).
MAX_CUDA_DEPTH = 2**23 - 64

ABC.define(
    "input_adjoint(Tensor grad, Tensor weight, SymInt[] input_size, bool channels_last, ScalarType dtype, "
    f"Tensor? seed, {GEOMETRY_ARGUMENTS}, {PLAN_ARGUMENTS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
ABC.define(
    "weight_adjoint(Tensor grad, Tensor planes, Tensor scale, Tensor shift, SymInt[] weight_size, SymInt[] input_size, "
    f"bool channels_last, ScalarType dtype, Tensor? seed, {GEOMETRY_ARGUMENTS}, {PLAN_ARGUMENTS}) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)


@torch.library.impl(ABC, "input_adjoint", "CompositeExplicitAutograd")
def input_adjoint(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    seed: Tensor | None,
    *arguments: Any,
) -> Tensor:
    """dx̂ in `dtype` (at least f32), of the size and memory format of the input."""
    geometry, plan = Geometry(*arguments[:6]), LayerPlan.of_arguments(*arguments[6:])
    recipe = recipe_of(plan, geometry)
    if seed is not None and _refusal(weight.shape, geometry, grad.device) is None:
        dx = _input_grad_on_planes(grad.float(), fit_of(weight, recipe), seed, input_size, weight.shape, geometry, plan)
        return in_memory_format(dx.to(dtype), channels_last)
    w_hat, grad = dequantized(weight, recipe).to(dtype), _rounded(grad.to(dtype), plan, seed)
    if geometry.linear:
        return (grad.reshape(-1, grad.shape[-1]) @ w_hat).view(list(input_size))
    like = _empty(input_size, grad, channels_last)
    grad, w_hat = (in_memory_format(t, channels_last) for t in (grad, w_hat))
    dx, _, _ = torch.ops.aten.convolution_backward(grad, like, w_hat, None, *geometry, [True, False, False])
    return in_memory_format(dx, channels_last)


@torch.library.impl(ABC, "weight_adjoint", "CompositeExplicitAutograd")
def weight_adjoint(
    grad: Tensor,
    planes: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight_size: Sequence[int],
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    seed: Tensor | None,
    *arguments: Any,
) -> Tensor:
    """dŴ in `dtype` (at least f32), contiguous."""
    geometry, plan = Geometry(*arguments[:6]), LayerPlan.of_arguments(*arguments[6:])
    depth = grad.numel() // max(grad.shape[-1 if geometry.linear else 1], 1)
    if seed is not None and _refusal(weight_size, geometry, grad.device, depth) is None:
        dw = _weight_grad_on_planes(
            grad.float(), planes, scale.float(), shift.float(), seed, weight_size, geometry, plan
        )
        return dw.to(dtype).contiguous()
    x = unpack_activation(planes, scale, shift, weight_size, input_size, channels_last, geometry, plan.levels).to(dtype)
    grad = _rounded(grad.to(dtype), plan, seed)
    if geometry.linear:
        return grad.reshape(-1, grad.shape[-1]).t() @ x.view(-1, x.shape[-1])
    like, grad = _empty(weight_size, grad, channels_last), in_memory_format(grad, channels_last)
    _, dw, _ = torch.ops.aten.convolution_backward(grad, x, like, None, *geometry, [False, True, False])
    return dw.contiguous()


def _empty(size: Sequence[int], like: Tensor, channels_last: bool) -> Tensor:
    """What convolution_backward asks the shape and memory format of the operand that it does not read."""
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(list(size), dtype=like.dtype, device=like.device, memory_format=memory_format)


def _refusal(weight_size: Sequence[int], geometry: Geometry, device: torch.device, depth: int = 0) -> str | None:
    """Why the products of a rounded gradient are made in float; None if they run on planes.

    depth  output positions that a weight gradient sums over
    """
    if device.type == "cuda":
        if reason := no_cuda_kernel(weight_size, library_cuda.variant(device.index)):
            return reason
        if depth >= MAX_CUDA_DEPTH:
            return f"{depth} output positions; the CUDA kernels sum over fewer than {MAX_CUDA_DEPTH}"
    elif device.type not in ("cpu", "meta"):
        return f"no backward product of bits for {device.type} yet"
    if geometry.linear:
        return None
    if layout_of(weight_size, geometry) == "flat":
        return "few channels per group, or more than two dimensions"
    return gradients.refusal(geometry.stride, geometry.dilation, geometry.transposed, geometry.groups, 2)


def _method() -> str:
    return "xnor" if library.kernel_variant("lut") == "reference" else "lut"


def _input_grad_on_planes(
    grad: Tensor,
    fit: Fit,
    seed: Tensor,
    input_size: Sequence[int],
    weight_size: Sequence[int],
    geometry: Geometry,
    plan: LayerPlan,
) -> Tensor:
    bases, alpha, k = fit.bases, fit.scales, plan.grad_bases
    if geometry.linear:
        rows = grad.reshape(-1, grad.shape[-1])
        dx = gradients.linear_input_grad_on_planes(rows, bases, alpha, k, seed, _method())
    else:
        kernel, space = two_dims(weight_size[2:], 1), two_dims(input_size[2:], 1)
        dx = gradients.input_grad_on_planes(
            image_of(grad), bases, alpha, k, seed, _of_images(geometry), kernel, space, _method()
        )
    return dx.reshape(list(input_size))


def _weight_grad_on_planes(
    grad: Tensor,
    planes: Tensor,
    scale: Tensor,
    shift: Tensor,
    seed: Tensor,
    weight_size: Sequence[int],
    geometry: Geometry,
    plan: LayerPlan,
) -> Tensor:
    levels, k = plan.levels, plan.grad_bases
    if geometry.linear:
        rows = grad.reshape(-1, grad.shape[-1])
        return gradients.linear_weight_grad_on_planes(
            rows, planes, scale, shift, levels, k, seed, weight_size[1], _method()
        )
    size = [*weight_size[:2], *two_dims(weight_size[2:], 1)]
    dw = gradients.weight_grad_on_planes(
        image_of(grad), planes, scale, shift, levels, k, seed, _of_images(geometry), size, _method()
    )
    return dw.reshape(list(weight_size))


def _of_images(geometry: Geometry) -> tuple[list[int], list[int], list[int]]:
    """Stride, padding and dilation in two dimensions."""
    return two_dims(geometry.stride, 1), two_dims(geometry.padding, 0), two_dims(geometry.dilation, 1)


def _rounded(grad: Tensor, plan: LayerPlan, seed: Tensor | None) -> Tensor:
    """The gradient of a layer whose products stay in float, rounded with one step for each sample if it has a seed."""
    if seed is None:
        return grad
    ends = torch.aminmax(grad.float().flatten(1), dim=1)
    step = quant.gradient_step(ends.min, ends.max, plan.grad_bases).view(-1, *[1] * (grad.dim() - 1))
    return quant.quantize(grad, step, seed, plan.grad_bases).to(grad.dtype)


@torch.library.register_fake("abc::input_adjoint", lib=ABC)
def _(
    grad: Tensor,
    weight: Tensor,
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    seed: Tensor | None,
    *_: Any,
) -> Tensor:
    return in_memory_format(grad.new_empty(list(input_size), dtype=dtype), channels_last)


@torch.library.register_fake("abc::weight_adjoint", lib=ABC)
def _(
    grad: Tensor,
    planes: Tensor,
    scale: Tensor,
    shift: Tensor,
    weight_size: Sequence[int],
    input_size: Sequence[int],
    channels_last: bool,
    dtype: torch.dtype,
    *_: Any,
) -> Tensor:
    return grad.new_empty(list(weight_size), dtype=dtype)
