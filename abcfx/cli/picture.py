"""The picture of the demo: accuracy and speed against M·N, one PNG."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from abcfx.cli.demo_report import Point, Results

INK, MUTED, GRID = "#1f2933", "#7b8794", "#e4e7eb"
BLUE, GREEN, ORANGE = "#2563eb", "#0f9d6c", "#d9730d"
STYLE = {
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": "#cbd2d9",
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
}


def draw(results: Results, path: Path) -> None:
    """Write the PNG: accuracy on the left; on the right, if it was measured, speed against compiled float."""
    points = sorted(results.points, key=lambda point: (point.M * point.N, point.M))
    raced = [point for point in points if point.race]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5 if raced else 6, 4.6), dpi=160, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(1, 2 if raced else 1, squeeze=False)[0]
        _accuracy(panels[0], points, results)
        if raced:
            _speed(panels[1], raced, results)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.05)
        title = f"{results.data}: what M weight bases and N activation bases buy"
        figure.suptitle(title, x=0.011, ha="left", weight="bold")
        figure.savefig(path)


def _products(axes: Axes, points: list[Point]) -> list[int]:
    """x axis: binary products for each float one; every point is labeled with its M×N."""
    products = [point.M * point.N for point in points]
    axes.set_xlabel("binary products per float product, M·N")
    axes.set_xlim(min(products) - 0.6, max(products) + 0.9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="x", visible=False)
    axes.tick_params(length=0)
    return products


def _label(axes: Axes, point: Point, x: float, y: float, below: bool) -> None:
    """M×N to the right of its point, on the side where the curve is not."""
    axes.annotate(
        f"{point.M}×{point.N}", (x, y), (7, -6 if below else 6), textcoords="offset points", ha="left",
        va="top" if below else "bottom", color=MUTED, fontsize=9,
    )  # fmt: skip


def _accuracy(axes: Axes, points: list[Point], results: Results) -> None:
    products = _products(axes, points)
    values = [point.accuracy for point in points]
    axes.plot(products, values, color=BLUE, marker="o", markersize=6, linewidth=1.8, label="calibrated, not trained")
    for point, x in zip(points, products, strict=True):
        _label(axes, point, x, point.accuracy, below=True)
    tops = list(values)
    if results.tuned_accuracy is not None:
        tuned = results.tuned_accuracy
        tops.append(tuned)
        axes.plot(
            [results.M * results.N], [tuned], color=ORANGE, marker="*", markersize=14, linestyle="none",
            label=f"{results.M}×{results.N}, fine-tuned",
        )  # fmt: skip
    if results.float_accuracy is not None:
        tops.append(results.float_accuracy)
        axes.axhline(results.float_accuracy, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label="float")
    low, high = min(tops), max(tops)
    margin = max(1.0, 0.14 * (high - low))
    axes.set_ylim(low - 1.4 * margin, min(100.5, high + margin))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g} %"))
    axes.set_title("Test accuracy", loc="left", fontsize=11)
    axes.legend(loc="lower right", frameon=False)


def _speed(axes: Axes, points: list[Point], results: Results) -> None:
    products = _products(axes, points)
    races = [point.race for point in points if point.race]
    spread = [[race.ratio - race.low for race in races], [race.high - race.ratio for race in races]]
    axes.errorbar(
        products, [race.ratio for race in races], yerr=spread, color=GREEN, marker="o", markersize=6, linewidth=1.8,
        elinewidth=1.2, capsize=3, label=f"batch {races[0].batch}, middle 80 % of the rounds",
    )  # fmt: skip
    for point, race, x in zip(points, races, products, strict=True):
        _label(axes, point, x, race.ratio, below=False)
    axes.axhline(1, color=INK, linewidth=1.1, linestyle=(0, (5, 3)), label="compiled float")
    axes.set_ylim(0, 1.16 * max(1.5, *(race.high for race in races)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
    axes.set_title(f"Speed against compiled float, {results.setup['threads']}", loc="left", fontsize=11)
    axes.legend(loc="upper right", frameon=False)
