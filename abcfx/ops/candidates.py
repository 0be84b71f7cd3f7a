"""Every form of a layer, ready to run on random operands of the right shapes, for the autotuner to time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor
from torch.nn.functional import linear as float_linear

from abcfx import autotune
from abcfx.ops import convolution, library, linear
from abcfx.ops.weight_cache import WeightRecipe, dequantized, packed
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan


def measure(workload: Workload, plan: LayerPlan, forms: Sequence[str]) -> dict[str, float]:
    """form → ms a call, from the store or measured now."""
    threads = torch.get_num_threads()
    machine = f"{autotune.cpu_model()}, {threads} threads, torch {torch.__version__}"
    kernels = f"{library.kernel_variant()} {library.kernel_variant('lut')} {kernels_digest()}"
    key = f"{machine}, {kernels}, {workload.text(plan)}"
    return autotune.measured(key, forms, workload.dims(plan, threads), lambda: candidates(workload, plan, forms))


@cache
def kernels_digest() -> str:
    """Names the build of the kernels: timings of another build are not taken for this one's."""
    found = library.path()
    return hashlib.sha256(found.read_bytes()).hexdigest()[:12] if found else "none"


def candidates(workload: Workload, plan: LayerPlan, forms: Sequence[str]) -> dict[str, Callable[[], object]]:
    """form → a function that does what one call of the layer does in that form, weights prepared; also for "float".

    Weights are fitted by the fastest method and levels made up: no time depends on their values, except that tiles
    multiply by coded weights once.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(workload.input, generator=generator).to(workload.dtype)
    if workload.channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(workload.weight, generator=generator)
    plan = replace(plan, basis="coded" if plan.basis == "coded" else "abc", per_channel=True)
    recipe = WeightRecipe(plan.weight_bases, plan.basis, plan.per_channel, False, workload.groups)
    levels = _levels(plan)

    def kernel(form: str) -> Callable[[], object]:
        ready = packed(weight, recipe._replace(method=form))
        if workload.geometry:
            return lambda: convolution.on_planes(x, weight, ready, None, *levels, workload.geometry, plan)
        return lambda: linear.on_planes(x, weight, ready, None, *levels, plan)

    def dense() -> Callable[[], object]:
        if workload.compiled:
            return fused_dense(workload, x, dequantized(weight, recipe))
        if workload.geometry:
            return lambda: convolution.dense(x, weight, None, *levels, workload.geometry, plan, recipe)
        return lambda: linear.dense(x, weight, None, *levels, plan, recipe)

    made = {"dense": dense, "float": lambda: float_op(workload, x, weight)}
    return {form: made[form]() if form in made else kernel(form) for form in forms}


def _levels(plan: LayerPlan) -> tuple[Tensor, Tensor]:
    if plan.levels == "coded":
        return torch.tensor([4 / 2**plan.activation_bases]), torch.tensor([-2.0])
    return torch.ones(plan.activation_bases), torch.linspace(-1, 1, plan.activation_bases)


def float_op(workload: Workload, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Callable[[], object]:
    """The layer as it was, in the dtype of its input."""
    weight = weight.to(x.dtype)
    if workload.geometry:
        return lambda: torch.ops.aten.convolution.default(x, weight, bias, *workload.geometry)
    return lambda: float_linear(x, weight, bias)


def fused_dense(workload: Workload, x: Tensor, weight: Tensor) -> Callable[[], object]:
    """The dense form in a compiled graph: one elementwise pass stands for the fused quantizer, which takes as long."""
    x = x.to(torch.promote_types(workload.dtype, torch.float32))
    buffer = torch.empty_like(x)
    if workload.geometry:
        op = torch.ops.aten.convolution.default
        return lambda: op(torch.clamp(x, -1.0, 1.0, out=buffer), weight, None, *workload.geometry)
    return lambda: float_linear(torch.clamp(x, -1.0, 1.0, out=buffer), weight)
