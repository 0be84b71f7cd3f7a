"""plan(model, loader, budget): measure once, then solve."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from abcfx.calibrate import calibrate, evaluating
from abcfx.ops import library
from abcfx.plan import LayerPlan
from abcfx.planner import costs
from abcfx.planner.accuracy import STEPS, Judge, within_drop
from abcfx.planner.budget import Budget
from abcfx.planner.margins import filled, margins
from abcfx.planner.options import LayerOptions, Measurements, Option
from abcfx.planner.probes import LOSSES, RANDOM
from abcfx.planner.result import BudgetPlan
from abcfx.planner.sensitivity import estimate, measure_exactly
from abcfx.planner.solve import solve
from abcfx.planner.watch import MEMORY, PIECE, Forward, Watched, fit_levels, pieces

COUNTS = (1, 2, 3, 4, 5)
SAMPLES, LEAST, OUTPUTS = 128, 16, 1 << 27  # samples by default, and at least; of all layers' outputs, values at most
SENSITIVITIES = ("estimate", "margins", "exact")


def plan(
    model: nn.Module,
    loader: Iterable[Any],
    budget: Budget | Mapping[str, float],
    *,
    candidates: Iterable[LayerPlan] | None = None,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    first_last_float: bool = True,
    fixed: Mapping[str, str] | None = None,
    example: Any = None,
    held_out: Iterable[Any] | None = None,
    sensitivity: str | None = None,
    loss: str = "kl",
    cost: str = "predicted",
    samples: int | None = None,
    probes: int | None = None,
    forward: Forward | None = None,
    measured: BudgetPlan | Measurements | None = None,
    progress: bool | None = None,
) -> BudgetPlan:
    """Choose for each layer M and N, the kind of basis, or float: the plan of least loss (or time) within a budget.

        planned = abcfx.plan(model, loader, {"speedup": 2.0})
        quantized = abcfx.quantize_model(model, plan=planned)       # then calibrate it
        planned.save("plan.json"); faster = planned.solve({"speedup": 3.0})

    loader       batches as `calibrate` takes them, a few hundred samples; read once
    budget       {"speedup": s}, {"latency_ms": t}, {"bits": b}, {"accuracy_drop": points}, or several (Budget)
    candidates   LayerPlans that each layer may have, beside float; by default M and N from 1 to 5
    include, exclude, first_last_float    which layers have a choice, as in quantize_model
    fixed        layer → label, e.g. {"layer1.0.conv1": "float", "fc": "4x4"}: layers that have no choice
    example      batch whose time counts, by default the first sample of the first batch
    held_out     batches that accuracy_drop is measured on; by default the second half of the loader's, which then serve
                 for nothing else
    sensitivity  "estimate" (a few runs of the model in both directions), "margins" (of a part of the candidates, from
                 which the others follow: abcfx/planner/margins.py) or "exact" (a run for each layer and candidate); by
                 default "estimate", or "margins" where the outputs of the layers are large, as for `samples`
    loss         "kl" to the float model's classes, or "mse" of its outputs
    cost         "predicted" by the cost model, or "measured" on this machine (abcfx/planner/costs.py)
    samples      how many samples the sensitivity is measured on; by default 128, or down to 16 where the outputs of the
                 layers are so large that 128 would take minutes (224x224 images)
    probes       directions of the logits (backward runs): the likeliest classes of each sample, by default 5, or random
                 ones, by default 10 (abcfx/planner/probes.py)
    forward      forward(model, batch) → logits, for batches or outputs of another form
    measured     an earlier plan: nothing is measured again, and its candidates, layers and fixed choices stand
    progress     show a bar; by default only on a terminal

    The same model, data and settings give the same plan (with cost="measured", as long as the timings are kept).
    Raises InfeasibleBudget (a ValueError) with the nearest value that can be kept; ValueError for a bad argument, no
    data, or no layer that could be quantized.
    """
    wanted = Budget.of(budget)
    _check(model, sensitivity, loss, cost, samples, probes)
    with _bar(progress) as bar:
        batches = list(loader)
        fit, judged = _split(batches, held_out, wanted)
        if measured is None:
            bases = candidates if candidates is not None else grid()
            rules = {"include": include, "exclude": exclude, "first_last_float": first_last_float}
            settings = {"sensitivity": sensitivity, "loss": loss, "cost": cost, "samples": samples, "probes": probes}
            measurements = _measure(model, fit, list(dict.fromkeys(bases)), rules, example, forward, bar, **settings)
            pinned = dict(fixed or {})
        else:
            measurements = measured if isinstance(measured, Measurements) else measured.measured
            pinned = {**({} if isinstance(measured, Measurements) else measured.fixed_choices), **(fixed or {})}
        if wanted.accuracy_drop is None:
            found = solve(measurements, wanted, pinned)
            return BudgetPlan(measurements, found.choices, wanted, found.gap, frozenset(pinned))
        tick = bar("judging plans", STEPS + 2)
        with evaluating(model):
            judge = Judge(model, judged, forward)
            return within_drop(measurements, wanted, pinned, judge, lambda p: build(model, p, fit, forward), tick)


def grid(layer: LayerPlan | None = None) -> list[LayerPlan]:
    """M and N from 1 to 5, everything else as in `layer`."""
    usual = layer or LayerPlan()
    return [replace(usual, weight_bases=m, activation_bases=n) for m, n in product(COUNTS, COUNTS)]


def build(model: nn.Module, planned: BudgetPlan, batches: Iterable[Any], forward: Forward | None = None) -> nn.Module:
    """The planned model, calibrated on the batches, in eval mode."""
    from abcfx.api import quantize_model  # it calls plan

    made = quantize_model(model, plan=planned).eval()
    return calibrate(made, batches, forward=forward, progress=False) if planned.plan.layers else made


def _check(
    model: nn.Module, sensitivity: str | None, loss: str, cost: str, samples: int | None, probes: int | None
) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"plan takes an nn.Module, got {type(model).__name__}")
    for name, value, known in (
        ("sensitivity", "estimate" if sensitivity is None else sensitivity, SENSITIVITIES),
        ("loss", loss, LOSSES),
        ("cost", cost, costs.COSTS),
    ):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    for name, value in (("samples", samples), ("probes", probes)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise ValueError(f"{name} must be an integer from 1 on, got {value!r}")


def _split(batches: Sequence[Any], held_out: Iterable[Any] | None, budget: Budget) -> tuple[list[Any], list[Any]]:
    """What levels and sensitivities are fitted to, and what accuracy is judged by."""
    if not batches:
        raise ValueError("plan needs calibration data; the loader gave no batch")
    if budget.accuracy_drop is None:
        return list(batches), []
    if held_out is not None:
        judged = list(held_out)
        if not judged:
            raise ValueError("held_out has no batch")
        return list(batches), judged
    if len(batches) < 2:
        raise ValueError(
            "accuracy_drop is measured on held-out data: give held_out=, or a loader of two batches or more"
        )
    half = (len(batches) + 1) // 2
    return list(batches[:half]), list(batches[half:])


def _measure(
    model: nn.Module, batches: list[Any], candidates: list[LayerPlan], rules: Mapping[str, Any], example: Any,
    forward: Forward | None, bar: Callable[[str, int], Callable[[], None]], *,
    sensitivity: str | None, loss: str, cost: str, samples: int | None, probes: int | None,
) -> Measurements:  # fmt: skip
    """Everything that a budget is solved from."""
    from abcfx.api import plan_of, quantize_model

    if not candidates:
        raise ValueError("candidates is empty: give at least one LayerPlan, e.g. [LayerPlan(2, 2)]")
    watched = Watched(model, lambda copied: quantize_model(copied, **rules), forward)
    shown = next(pieces(batches[:1], 1)) if example is None else example
    met = costs.meet(watched.model, lambda: watched.run(shown))
    values = sum(sum(work.outputs) for work in met.values()) // _size(shown)
    size = max(1, min(PIECE, MEMORY // (4 * max(1, values) * ((probes or RANDOM) + 3))))
    affordable = OUTPUTS // max(1, values)
    measured_on = _first(pieces(batches, size), samples or max(LEAST, min(SAMPLES, affordable)))
    sensitivity = sensitivity or ("estimate" if affordable >= SAMPLES else "margins")
    tried = margins(candidates) if sensitivity == "margins" else candidates
    tick = bar("sampling inputs", len(batches))
    sampled = watched.samplers(_ticking(batches, tick))
    levels = fit_levels(sampled, candidates)

    def levels_of(name: str, plan: LayerPlan) -> Any:
        return levels[name, plan.activation_bases, plan.levels]

    tick = bar("estimating sensitivity", len(measured_on))
    found = estimate(watched, measured_on, tried, levels_of, loss, probes, tick)
    losses = found.losses
    if sensitivity == "exact":
        losses = measure_exactly(
            watched, measured_on, found, levels_of, loss, bar("measuring each layer", len(found.losses))
        )
    tick = bar("timing layers", len(met))
    layers = []
    reasons = plan_of(watched.model).reasons
    for name, work in met.items():
        plans = candidates if name in watched.layers else []
        floats, each = costs.milliseconds(work, plans, _device(model), cost)
        options = [Option(None, 0.0, floats)]
        known = filled({p: losses[name, p] for p in tried}, plans) if plans else {}
        options += [Option(p, known[p], ms) for p, ms in zip(plans, each, strict=True)]
        layers.append(LayerOptions(name, work.weights, tuple(options), reasons.get(name)))
        tick()
    if missing := sorted(set(watched.layers) - set(met)):
        raise ValueError(
            f"the example does not reach {', '.join(missing)}; give another example or exclude these layers"
        )
    setup = {
        "model": type(model).__name__,
        "example": [list(v.shape) for v in _tensors(shown)],
        "threads": torch.get_num_threads(),
        "kernels": library.kernel_variant(),
        "sensitivity": sensitivity,
        "loss": loss,
        "cost": cost,
        "samples": sum(_size(piece) for piece in measured_on),
        "probes": found.probes,
    }
    return Measurements(tuple(layers), costs.rest(met), setup)


def _first(parts: Iterator[Any], samples: int) -> list[Any]:
    """The first pieces that hold `samples` samples, the last one cut."""
    found: list[Any] = []
    left = samples
    for part in parts:
        found.append(part[:left] if isinstance(part, Tensor) else part)
        left -= _size(part)
        if left <= 0:
            break
    return found


def _size(batch: Any) -> int:
    tensors = _tensors(batch)
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


def _tensors(batch: Any) -> list[Tensor]:
    values = batch.values() if hasattr(batch, "keys") else batch if isinstance(batch, (tuple, list)) else [batch]
    return [value for value in values if isinstance(value, Tensor)]


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _ticking(items: Iterable[Any], tick: Callable[[], None]) -> Iterator[Any]:
    for item in items:
        yield item
        tick()


@contextmanager
def _bar(progress: bool | None) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """A function that starts a stage of so many steps and returns its tick."""
    shown = sys.stderr.isatty() if progress is None else progress
    columns = TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, disable=not shown) as bar:

        def stage(text: str, steps: int) -> Callable[[], None]:
            task = bar.add_task(text, total=steps)
            return lambda: bar.advance(task)

        yield stage
