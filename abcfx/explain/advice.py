"""For each layer the line to paste that would change what became of it; None where no line can."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import product
from math import nan

import torch

from abcfx.ops.choose import choose
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan

WORTH_CODING = 0.9  # of the time of a layer: what coded weights, which err as little, have to come to
CALL = "abcfx.quantize_model(model, M={M}, N={N}{more})"
# part of a reason → the line; {name!r} is the layer, {call} the call that quantizes it beside the others
LINES = (
    ("layer stays float by default", "{call}"),
    ("not in include", "abcfx.quantize_model(model, M={M}, N={N}, include=[..., {name!r}])"),
    ("filter_fn said no", "filter_fn=lambda module, name: name == {name!r} or ..."),
    ("remove_parametrizations", "torch.nn.utils.parametrize.remove_parametrizations(model.{name}, 'weight')"),
    ("remove the hook first", "torch.nn.utils.remove_weight_norm(model.{name})"),
    ("the model is not quantized", "abcfx.quantize_model(model, M={M}, N={N})"),
    ("times as fast as in float when it ran", "{call}"),
    ("min_speedup=", "torch.compile(model, backend='abc', options={{'M': {M}, 'N': {N}, 'min_speedup': 0}})"),
    ("float64 input", "model.float()"),
    ("compiled kernels are not loaded", "python -m abcfx doctor"),
)


def line_for_float(name: str, reason: str, M: int, N: int) -> str | None:
    """What to paste so that a float layer is quantized."""
    call = CALL.format(M=M, N=N, more=f", overrides={{{name!r}: {{'M': {M}, 'N': {N}}}}}")
    if excluded := re.match(r"excluded by '(.*)'", reason):
        return f"abcfx.quantize_model(model, M={M}, N={N}, exclude=[...])  # without {excluded[1]!r}"
    return next((line.format(name=name, call=call, M=M, N=N) for part, line in LINES if part in reason), None)


def line_for_kernel(name: str, workload: Workload, plan: LayerPlan, device: torch.device) -> str:
    """What to paste so that a layer on bits runs faster, where coded weights would; else so that it stays float."""
    plans = plan, replace(plan, basis="coded")
    now, coded = (min(choose(workload, each, device).ms.values(), default=nan) for each in plans)
    more = ", basis='coded'" if coded < WORTH_CODING * now else f", exclude=[{name!r}]"
    return CALL.format(M=plan.weight_bases, N=plan.activation_bases, more=more)


def line_for_dense(name: str, reason: str, workload: Workload, plan: LayerPlan, device: torch.device) -> str | None:
    """What to paste so that a dense layer runs on bits: the most bases with which a kernel pays; else as for float."""
    m, n = plan.weight_bases, plan.activation_bases
    for fewer in sorted(product(range(1, m + 1), range(1, n + 1)), key=lambda mn: (-mn[0] * mn[1], -mn[1])):
        smaller = replace(plan, weight_bases=fewer[0], activation_bases=fewer[1])
        if fewer != (m, n) and choose(workload, smaller, device).form != "dense":
            rule = f"{{{name!r}: {{'M': {fewer[0]}, 'N': {fewer[1]}}}}}"
            return CALL.format(M=m, N=n, more=f", overrides={rule}")
    return next((line for part, line in LINES[-2:] if part in reason), None)
