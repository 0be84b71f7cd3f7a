"""Putting the explanation together: summary, values, graphs and times of one run on the user's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from abcfx.cli import machine
from abcfx.explain import advice
from abcfx.explain.bits import BitGraph, planes_of
from abcfx.explain.capture import Captured, capture
from abcfx.explain.clock import LayerTime, time_layers
from abcfx.explain.report import KERNELS, Explanation, LayerExplanation
from abcfx.explain.sqnr import Power, first_tensor, layers_of, noise_alone, noise_running, run_in_float
from abcfx.layers import ABCLayer
from abcfx.layers.functional import ABCFunctional
from abcfx.ops.choose import choose, float_and_forms_ms, tuning
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan
from abcfx.summary import LayerSummary, summary, workload_of

if TYPE_CHECKING:
    from abcfx.planner import BudgetPlan


def explain(
    model: nn.Module,
    *inputs: Any,
    measure: bool = True,
    plan: BudgetPlan | None = None,
    **named_inputs: Any,
) -> Explanation:
    """Run the model on the inputs, in float and quantized, and say of each layer what became of it and what it costs.

    model     of `quantize_model`, calibrated; or a float model, whose layers are then all "float"
    measure   time each layer too (a fraction of a second a layer); without it, predictions only
    plan      the plan of `abcfx.plan` that the model follows, for the picture of time against loss on the page

    The model is run in eval mode and left as it was. Raises TypeError if `model` is not a module or no input is given,
    NotCalibratedError naming the layer if one is not calibrated; an error of the model on these inputs goes through.
    """
    from abcfx.explain.drawing import draw  # networkx takes its time

    if not isinstance(model, nn.Module):
        raise TypeError(f"explain takes an nn.Module, got {type(model).__name__}")
    if not inputs and not named_inputs:
        raise TypeError("explain needs inputs to run the model on: abcfx.explain(model, batch)")
    model = getattr(model, "_orig_mod", model)  # behind torch.compile
    wanted, seen = run_in_float(model, inputs, named_inputs)
    alone = noise_alone(model, seen)
    got, running = noise_running(model, inputs, named_inputs, seen)
    with tuning(False):
        about = summary(model, *inputs, **named_inputs)
    graphs, problem = capture(model, inputs, named_inputs)
    modules = layers_of(model)
    usual = next((layer.plan for layer in modules.values() if isinstance(layer, ABCLayer)), LayerPlan())
    rows = [(row, *_work(modules.get(row.name), seen.get(row.name), usual)) for row in about.layers]
    times: Mapping[str, LayerTime] = {}
    if measure:
        known = {row.name: work for row, work, _ in rows if work is not None}
        times = time_layers(model, seen, graphs, known, {row.name for row, *_ in rows if row.runs == "dense"})
    edges = _edges(graphs)
    device = next((value.device for value in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    layers = [
        _Row(row, work, plan, times.get(row.name, LayerTime()), edges.get(row.name), device).explained(
            alone.get(row.name), running.get(row.name)
        )
        for row, work, plan in rows
    ]
    output = Power()
    if (exact := first_tensor(wanted)) is not None and (ours := first_tensor(got)) is not None:
        output.add(exact, ours)
    return Explanation(
        about.model, about.inputs, tuple(layers), output.db,
        tuple(draw(graph.before) for graph in graphs),
        tuple(draw(graph.after, graph.lowered) for graph in graphs),
        (problem,) if problem else (),
        machine.line(machine.describe()), measure, "" if plan is None else _picture(plan),
    )  # fmt: skip


def _picture(planned: BudgetPlan) -> str:
    """The picture of abcfx/planner/picture.py as an `<svg>` element whose text stays text."""
    import matplotlib as mpl  # takes its time

    from abcfx.planner.picture import draw as draw_plans

    with TemporaryDirectory() as folder, mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "abcfx"}):
        path = Path(folder) / "plans.svg"
        draw_plans(planned, path)
        text = path.read_text(encoding="utf-8")
    return text[text.index("<svg") :]


def _work(module: nn.Module | None, calls: Any, usual: LayerPlan) -> tuple[Workload | None, LayerPlan]:
    """The work of a layer, and its plan; for a float one the plan that it would have beside the others."""
    plan = module.plan if isinstance(module, ABCLayer) else usual
    if module is None or calls is None:
        return None, plan
    inputs = calls.inputs[0]
    weight = inputs[1] if isinstance(module, ABCFunctional) else getattr(module, "weight", None)
    known = isinstance(weight, Tensor) and weight.dim() >= 2 and isinstance(inputs[0], Tensor)
    return (workload_of(module, weight, inputs[0]) if known else None), plan


def _edges(graphs: Iterable[Captured]) -> dict[str, tuple[int | None, int | None]]:
    """layer on bits → planes that it reads from another layer, and planes that it writes; None for floats."""
    found: dict[str, tuple[int | None, int | None]] = {}
    for graph in graphs:
        bits = BitGraph(graph.after, graph.lowered)
        for name, nodes in bits.layers.items():
            product = nodes.product[0]
            sources = [n for n in product.all_input_nodes if bits.carries_bits(n)]
            reads = planes_of(sources[0]) if nodes.reads_bits and sources else None
            found[name] = reads, planes_of(product) if nodes.writes_bits else None
    return found


class _Row:
    """One layer, on its way from what the summary says to an explanation."""

    def __init__(
        self,
        row: LayerSummary,
        work: Workload | None,
        plan: LayerPlan,
        time: LayerTime,
        edges: tuple | None,
        device: torch.device,
    ) -> None:
        self.row, self.work, self.plan, self.time = row, work, plan, time
        self.edges, self.device = edges or (None, None), device

    def explained(self, alone: Power | None, running: Power | None) -> LayerExplanation:
        row, time = self.row, self.time
        reason, paste = self._why()
        bits_in, bits_out = self._bits()
        ms = self._predicted()
        return LayerExplanation(
            row.name, row.kind, row.runs, reason, paste, row.input_shape, row.output_shape, row.calls, row.M, row.N,
            bits_in, bits_out,
            predicted_ms=self._each(ms.get(row.runs)),
            predicted_float_ms=self._each(ms.get("float")),
            measured_ms=time.ms,
            float_ms=time.float_ms,
            pack_ms=time.pack_ms,
            product_ms=time.product_ms,
            rest_ms=time.rest_ms,
            alone_db=None if alone is None else alone.db,
            running_db=None if running is None else running.db,
        )  # fmt: skip

    def _each(self, ms: float | None) -> float | None:
        return None if ms is None else ms * max(1, self.row.calls)

    def _predicted(self) -> dict[str, float]:
        if self.work is None:
            return {}
        with tuning(False):
            return float_and_forms_ms(self.work, self.plan, self.device)[0]

    def _bits(self) -> tuple[int | None, int | None]:
        if self.work is None:
            return None, None
        width = 8 * self.work.dtype.itemsize
        return self.edges[0] or width, self.edges[1] or width

    def _why(self) -> tuple[str, str | None]:
        row, device = self.row, self.device
        M, N = self.plan.weight_bases, self.plan.activation_bases
        note = row.note or ""
        if row.runs == "float":
            return note, advice.line_for_float(row.name, note, M, N)
        if row.runs in KERNELS and self.work is not None:
            return choose(self.work, self.plan, device).reason, advice.line_for_kernel(
                row.name, self.work, self.plan, device
            )
        if row.runs == "dense" and self.work is not None:
            return note, advice.line_for_dense(row.name, note, self.work, self.plan, device)
        return note, None
