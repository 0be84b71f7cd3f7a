"""What each option of a layer costs in time, at the shape in which the model will run.

predicted   the cost model (abcfx/cost): the fastest form of the quantized layer, and the f32 op of the float one
measured    the same forms timed once on this machine, answers kept on disk (abcfx/autotune.py)

Between the layers, what a compiler leaves of batch norm and activation counts as one pass over each layer's output, the
same in every plan, and a prediction in either case.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from abcfx.cost import Dims, predict, rates_for
from abcfx.layers import ABCLayer
from abcfx.layers.functional import ABCFunctional
from abcfx.ops.candidates import measure
from abcfx.ops.choose import choose, methods, runs_on, tuning
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan
from abcfx.sites import float_class, module_sites
from abcfx.summary import workload_of

COSTS = ("predicted", "measured")


@dataclass
class Met:
    """What a layer met while the model ran on the example: the work of each call, and the values it gave."""

    workloads: list[Workload] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)
    weights: int = 0


def meet(model: nn.Module, run: Callable[[], Any]) -> dict[str, Met]:
    """Layers by name, quantized (in float meanwhile) or not, that `run` reaches, with the work of their calls."""
    found: dict[str, Met] = {}

    def hook(name: str) -> Callable[[nn.Module, tuple, Any], None]:
        def note(module: nn.Module, inputs: tuple, output: Any) -> None:
            weight = inputs[1] if isinstance(module, ABCFunctional) else module.weight
            met = found.setdefault(name, Met(weights=weight.numel()))
            met.workloads.append(workload_of(module, weight, inputs[0]))
            met.outputs.append(output.numel())

        return note

    layers = [
        (getattr(module, "abc_name", site.name), module)
        for site, module in module_sites(model)
        if isinstance(module, ABCLayer) or (float_class(module) and isinstance(module.weight, Tensor))
    ]
    hooks = [module.register_forward_hook(hook(name)) for name, module in layers]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in hooks:
            handle.remove()
    return {name: found[name] for name, _ in layers if name in found}


def milliseconds(met: Met, plans: Sequence[LayerPlan], device: torch.device, cost: str) -> tuple[float, list[float]]:
    """(float, each plan) of all calls of a layer."""
    floats, each = 0.0, [0.0] * len(plans)
    for workload in met.workloads:
        ms, quantized = _call(workload, plans, device, cost)
        floats += ms
        each = [total + more for total, more in zip(each, quantized, strict=True)]
    return floats, each


def rest(found: Mapping[str, Met]) -> float:
    """One elementwise pass over the output of each call, in ms."""
    variants, threads = runs_on(torch.device("cpu"))
    rates = rates_for(*variants)
    total = 0.0
    for values in (count for met in found.values() for count in met.outputs):
        ms = predict(Dims(1, 8, 1, values=values, threads=threads), rates)
        total += ms["dense"] - ms["float"]
    return total


def _call(workload: Workload, plans: Sequence[LayerPlan], device: torch.device, cost: str) -> tuple[float, list[float]]:
    variants, _ = runs_on(device)
    forms = [form for form, reason in methods(workload, device.type, variants).items() if reason is None]
    predicted = predict(_dims(workload), rates_for(*variants))
    if forms == ["dense"]:
        return predicted["float"], [predicted["dense"]] * len(plans)
    if cost == "predicted":
        with tuning(False):
            return predicted["float"], [_quantized(workload, plan, device) for plan in plans]
    first = plans[0] if plans else LayerPlan(1, 1)  # a layer without a choice is timed in float all the same
    floats = measure(workload, first, [*forms, "float"])["float"]
    with tuning():
        return floats, [_quantized(workload, plan, device) for plan in plans]


def _quantized(workload: Workload, plan: LayerPlan, device: torch.device) -> float:
    """Of the form that will run: the fastest, or the one that ABCFX_FORM forces."""
    choice = choose(workload, plan, device)
    if choice.form in choice.ms:
        return choice.ms[choice.form]
    variants, threads = runs_on(device)
    return predict(workload.dims(plan, threads), rates_for(*variants))[choice.form]


def _dims(workload: Workload) -> Dims:
    """Of the float op and the dense form. A transposed convolution multiplies each input by all the weights of its
    channel: its rows are the positions of the input.
    """
    threads = torch.get_num_threads()
    if "transpose" not in workload.kind or workload.input is None:
        return workload.dims(LayerPlan(), threads)
    channels, cols, *taps = workload.weight
    batch, _, *size = workload.input
    return Dims(
        batch * prod(size), cols, channels // workload.groups, prod(taps), workload.groups, prod(workload.input),
        convolution=1, threads=threads,
    )  # fmt: skip
