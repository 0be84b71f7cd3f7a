"""plan → plan: a layer whose fastest form is not faster than the float layer stays float, with both times as reason.

    keep s in the plan   ⇔   float_ms(s) ≥ min_speedup · min over forms of ms(s, form)

ms      of the cost model (abcfx/cost), or measured on this machine if autotuning is on
forms   on bit planes, by tables, or as one dense op; the dense op does the float product and quantizes besides, so it
        is never faster, and a layer without a kernel stays float for every min_speedup ≥ 1

No graph is changed. A form that is forced (ABCFX_FORM) runs whatever pays, and min_speedup = 0 asks nothing.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace

from abcfx.passes.lower import workload_of
from abcfx.passes.match_layers import GraphSite

from abcfx.graph import value, view
from abcfx.ops.choose import choose, float_and_forms_ms, forced_form
from abcfx.plan import LayerPlan, Plan


def never_slower(sites: Iterable[GraphSite], plan: Plan, min_speedup: float, settled: Collection[str] = ()) -> Plan:
    """`plan` without the layers that would not be min_speedup times faster; `settled` ones are not asked about."""
    if min_speedup <= 0 or forced_form():
        return plan
    layers, reasons = dict(plan.layers), dict(plan.reasons)
    for site in sites:
        name = site.site.name
        if name in layers and name not in settled and (reason := _reason(site, layers[name], min_speedup)):
            del layers[name]
            reasons[name] = reason
    return replace(plan, layers=layers, reasons=reasons)


def _reason(site: GraphSite, plan: LayerPlan, min_speedup: float) -> str | None:
    layer = view(site.node)
    tensor = value(layer.input)
    if tensor is None:
        return None  # a graph without shapes: lowering says so
    workload = workload_of(layer)
    ms, measured = float_and_forms_ms(workload, plan, tensor.device)
    forms = {form: time for form, time in ms.items() if form != "float"}
    if not forms:
        return None if min_speedup < 1 else f"{choose(workload, plan, tensor.device).reason}, so it would not be faster"
    best = min(forms, key=forms.__getitem__)
    if ms["float"] >= min_speedup * forms[best]:
        return None
    how, speedup = "measured" if measured else "predicted", ms["float"] / forms[best]
    why = f", since {choose(workload, plan, tensor.device).reason}" if set(forms) == {"dense"} else ""
    return (
        f"{how} {forms[best]:.3g} ms as {best} against {ms['float']:.3g} ms in float{why}: {speedup:.2f} times as "
        f"fast, min_speedup={min_speedup:g} is asked (options={{'min_speedup': 0}} quantizes it all the same)"
    )
