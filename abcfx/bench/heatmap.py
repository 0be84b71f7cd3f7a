"""The (M, N) maps as pictures: one PNG for each rival, one panel for each shape."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from abcfx.bench.breakeven import ShapeMap
from abcfx.bench.markdown import all_kinds, breakeven_text
from abcfx.cli.picture import INK, MUTED, STYLE

# Colours are log2 of the ratio, pale at 1, and full from eight times faster or slower on.
FULL = 3.0
PANELS_A_ROW = 4
COLORS = "RdYlBu"


def draw_maps(maps: Sequence[ShapeMap], folder: Path, machine_line: str) -> list[Path]:
    """Write breakeven-KIND.png for each rival that ran on any shape."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for kind in all_kinds(maps):
        shown = [found for found in maps if found.cells and kind in found.kinds()]
        if shown:
            path = folder / f"breakeven-{kind}.png"
            _draw(shown, kind, path, machine_line)
            written.append(path)
    return written


def _draw(maps: Sequence[ShapeMap], kind: str, path: Path, machine_line: str) -> None:
    across = min(PANELS_A_ROW, len(maps))
    down = math.ceil(len(maps) / across)
    with mpl.rc_context({**STYLE, "axes.grid": False, "font.size": 9}):
        figure = Figure(figsize=(max(6.5, 3.4 * across + 0.8), 3.5 * down + 0.9), dpi=130, layout="constrained")
        FigureCanvasAgg(figure)
        panels = figure.subplots(down, across, squeeze=False).ravel()
        for panel, found in zip(panels, maps, strict=False):
            image = _panel(panel, found, kind)
        for panel in panels[len(maps) :]:
            panel.set_visible(False)
        bar = figure.colorbar(image, ax=list(panels), shrink=0.7, aspect=30, ticks=[-3, -2, -1, 0, 1, 2, 3])
        bar.ax.set_yticklabels(["≤ ⅛", "¼", "½", "1", "2", "4", "≥ 8"])
        bar.outline.set_visible(False)
        bar.set_label(f"{kind} time / abcfx time: blue, abcfx is faster")
        figure.suptitle(f"abcfx against {kind}, packing included\n{machine_line}", ha="left", x=0.01, fontsize=10)
        figure.savefig(path)


def _panel(axes: Axes, found: ShapeMap, kind: str):
    lines, columns = sorted({M for M, _ in found.planned}), sorted({N for _, N in found.planned})
    values = np.full((len(lines), len(columns)), np.nan)
    for cell in found.cells:
        ratio = cell.ratios[kind].median
        row, column = lines.index(cell.M), columns.index(cell.N)
        values[row, column] = math.log2(ratio)
        strong = abs(math.log2(ratio)) > 0.62 * FULL
        axes.text(
            column, row, _short(ratio), ha="center", va="center", fontsize=7.5 if len(columns) > 6 else 9,
            color="white" if strong else INK, weight="bold" if ratio >= 1 else "normal",
        )  # fmt: skip
    for M, N in found.skipped:
        axes.text(columns.index(N), lines.index(M), "·", ha="center", va="center", color=MUTED)
    axes.set_facecolor("#f1f3f5")
    image = axes.imshow(values, cmap=COLORS, norm=Normalize(-FULL, FULL), origin="lower", aspect="auto")
    axes.set_xticks(range(len(columns)), map(str, columns))
    axes.set_yticks(range(len(lines)), map(str, lines))
    axes.tick_params(length=0)
    axes.set_xlabel("N, activation bases")
    axes.set_ylabel("M, weight bases")
    axes.set_title(f"{found.name}\nlargest M·N that wins: {breakeven_text(found, kind)}", loc="left", fontsize=8.5)
    return image


def _short(ratio: float) -> str:
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2f}".lstrip("0")
