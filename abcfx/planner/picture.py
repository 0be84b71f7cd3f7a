"""The Pareto picture: estimated loss against time, of the best plans, of uniform ones, and of the chosen one."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from abcfx.planner.budget import Budget
from abcfx.planner.result import BudgetPlan

POINTS = 24
BLUE, MUTED, ORANGE = "#2563eb", "#7b8794", "#d9730d"
LEAST = 1e-7  # of loss: a float model has none, and the axis is logarithmic


def pareto(planned: BudgetPlan, points: int = POINTS) -> list[BudgetPlan]:
    """The plan of least loss at each of some latencies, from the fastest that can be had to the slowest that helps.

    Fixed layers stay fixed. Plans that come twice are given once; both time and loss change from each to the next.
    """
    pinned = planned.fixed_choices
    layers = planned.measured.layers
    ends = [[layer.option(pinned[layer.name])] if layer.name in pinned else layer.options for layer in layers]
    fastest = sum(min(option.ms for option in options) for options in ends)
    best = sum(min(options, key=lambda option: (option.loss, option.ms)).ms for options in ends)
    rest = planned.measured.rest_ms
    found: list[BudgetPlan] = []
    for ms in np.linspace(rest + fastest, rest + max(best, fastest), points):
        at = planned.solve(Budget(latency_ms=float(ms)))
        if not found or at.loss < found[-1].loss:
            found.append(at)
    return found


def draw(planned: BudgetPlan, path: str | Path) -> None:
    """Write the picture; the suffix of `path` says in which format (png, svg, pdf)."""
    front, measured = pareto(planned), planned.measured
    style = {"axes.grid": True, "grid.color": "#e4e7eb", "axes.spines.top": False, "axes.spines.right": False}
    with mpl.rc_context(style):
        figure = Figure(figsize=(7.5, 4.8), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(
            [p.ms for p in front], [max(p.loss, LEAST) for p in front], color=BLUE, marker="o", markersize=4,
            label="best plans",
        )  # fmt: skip
        uniform = [planned.uniform(label) for label in measured.uniform()]
        axes.plot(
            [p.ms for p in uniform], [max(p.loss, LEAST) for p in uniform], color=MUTED, marker="s", markersize=4,
            linestyle="none", label="the same M×N everywhere",
        )  # fmt: skip
        for label, plan in zip(measured.uniform(), uniform, strict=True):
            axes.annotate(label, (plan.ms, max(plan.loss, LEAST)), (4, 4), textcoords="offset points", fontsize=7)
        axes.plot(
            [planned.ms], [max(planned.loss, LEAST)], color=ORANGE, marker="*", markersize=15, linestyle="none",
            label=f"chosen for {planned.budget}",
        )  # fmt: skip
        axes.axvline(measured.float_ms, color="#1f2933", linewidth=1, linestyle=(0, (5, 3)), label="float model")
        axes.set_yscale("log")
        axes.set_xlabel(f"{measured.setup.get('cost', '')} ms of the whole model".strip())
        axes.set_ylabel("estimated rise of the loss (sum over layers)")
        axes.set_title(str(measured.setup.get("model", "")), loc="left", weight="bold")
        axes.legend(frameon=False)
        figure.savefig(path)
