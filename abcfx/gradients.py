"""How much of each layer's output gradient survives rounding to K bit planes.

    SQNR = 10·log10( ‖g‖² / E‖ĝ - g‖² )  dB,    E‖ĝ - g‖² = Σ step²·f·(1 - f),  f = frac(g / step)

the expectation of stochastic rounding (abcfx/quant/gradients.py), so the report has no noise of its own. Both backward
products round on their own: grad_input with one step for each sample of α_p·g, grad_weight with one for each output
channel of g. About 20 dB is one part in a hundred of the power; gradients in float have none to lose.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from abcfx.layers import ABCLayer
from abcfx.ops.weight_cache import fitted
from abcfx.packed import recipe_of
from abcfx.quant.gradients import code_range, gradient_step


@dataclass(frozen=True)
class GradientNoise:
    """One layer: SQNR in dB of the gradients that its two backward products get, and the largest |g| over the rms."""

    name: str
    grad_bases: int
    grad_input_db: float
    grad_weight_db: float
    peak: float


def gradient_report(
    model: nn.Module, loss: Callable[[nn.Module], Tensor], grad_bases: int | None = None
) -> list[GradientNoise]:
    """Run one backward pass of `loss(model)` and report on every quantized layer, first to last.

    loss        model → scalar, e.g. lambda model: cross_entropy(model(images), labels)
    grad_bases  planes to report on; None: those of each layer's plan

    Parameters' gradients are left as they were. Raises ValueError if the model has no quantized layer, or if none of
    its layers rounds its gradients and `grad_bases` is not given.
    """
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, ABCLayer)}
    if not layers:
        raise ValueError("the model has no quantized layer; make one with abcfx.quantize_model")
    planes = {name: grad_bases or layer.plan.grad_bases for name, layer in layers.items()}
    if not any(planes.values()):
        raise ValueError("no layer rounds its gradients; give grad_bases here or to quantize_model")
    found: dict[str, Tensor] = {}
    handles = [_watch(layer, name, found) for name, layer in layers.items() if planes[name]]
    before = {name: p.grad for name, p in model.named_parameters()}
    try:
        loss(model).backward()
    finally:
        for handle in handles:
            handle.remove()
        for name, p in model.named_parameters():
            p.grad = before[name]
    return [_noise(name, layers[name], found[name], planes[name]) for name in layers if name in found]


def _watch(layer: ABCLayer, name: str, found: dict[str, Tensor]) -> torch.utils.hooks.RemovableHandle:
    def seen(module: nn.Module, args: tuple, output: Tensor) -> None:
        if output.requires_grad:
            output.register_hook(lambda grad: found.__setitem__(name, grad.detach().float()))

    return layer.register_forward_hook(seen)


def _noise(name: str, layer: ABCLayer, grad: Tensor, planes: int) -> GradientNoise:
    if layer.output_gain is not None:  # the hook saw the gradient behind the output correction
        shape = [1] * grad.dim()
        shape[layer.channel_dim] = -1
        grad = grad * layer.output_gain.float().view(shape)
    channels = grad.movedim(layer.channel_dim, -1).reshape(grad.shape[0], -1, grad.shape[layer.channel_dim])
    folded = torch.stack([channels * alpha for alpha in fitted(layer.weight, recipe_of(layer))[1]])  # [M, n, pixels, O]
    samples, outputs = folded.transpose(0, 1).flatten(1), channels.flatten(0, 1).t()
    rms = grad.square().mean().sqrt()
    peak = float(grad.abs().max() / rms) if rms > 0 else 0.0
    return GradientNoise(name, planes, _sqnr(samples, planes), _sqnr(outputs, planes), peak)


def _sqnr(blocks: Tensor, planes: int) -> float:
    """dB over all blocks, f32[blocks, values], each with a step of its own; infinite where nothing is lost."""
    low, high = code_range(planes)
    step = gradient_step(blocks.amin(1), blocks.amax(1), planes).unsqueeze(1).double()
    t = torch.where(step > 0, blocks / step, 0.0)
    # the two codes around t are one apart, for K = 1 the two ends of the range
    noise = step.square() * ((t - t.floor()) * (t.ceil() - t) if planes > 1 else (t - low) * (high - t))
    power, lost = blocks.double().square().sum(), noise.sum()
    return float(10 * torch.log10(power / lost)) if lost > 0 else float("inf")
