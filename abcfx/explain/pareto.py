"""The picture of the trade: what is lost against milliseconds, the plans that no other beats joined, as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from abcfx.explain.report import ParetoPoint


def pareto_svg(points: Sequence[ParetoPoint], loss: str) -> str:
    """An `<svg>` element; `loss` names the vertical axis."""
    import matplotlib as mpl
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    from abcfx.cli.picture import BLUE, MUTED, ORANGE, STYLE
    from abcfx.explain.report import pareto_front

    front = pareto_front(points)
    with mpl.rc_context(STYLE | {"svg.fonttype": "none", "svg.hashsalt": "abcfx", "font.size": 10}):
        figure = Figure(figsize=(7, 4), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.subplots()
        axes.plot([p.ms for p in points], [p.loss for p in points], "o", color=MUTED, markersize=4, label="plans")
        axes.step([p.ms for p in front], [p.loss for p in front], "o-", where="post", color=BLUE, label="not beaten")
        chosen = [p for p in points if p.chosen]
        if chosen:
            axes.plot(
                [p.ms for p in chosen], [p.loss for p in chosen], "*", color=ORANGE, markersize=15, label="this plan"
            )
        for point in points:
            axes.annotate(
                point.label, (point.ms, point.loss), (6, 5), textcoords="offset points", color=MUTED, fontsize=8
            )
        axes.set_xlabel("ms")
        axes.set_ylabel(loss)
        axes.legend(frameon=False)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
