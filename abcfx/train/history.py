"""What happened, one row an epoch: a CSV file and a picture of its curves."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """All rows under the keys of all of them, atomically; floats with six digits, nothing where a row lacks a key."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with beside.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    beside.replace(path)


def draw_curves(rows: Sequence[Mapping[str, Any]], path: str | Path, title: str, goal: float | None = None) -> None:
    """Accuracy and loss over the epochs as a PNG; `goal` is a dashed line, the accuracy of the float model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    epochs = [row["epoch"] for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axes, kind in ((left, "accuracy"), (right, "loss")):
        for part, color in (("train", "#94a3b8"), ("test", "#2563eb")):
            axes.plot(epochs, [row[f"{part}_{kind}"] for row in rows], color=color, marker=".", label=part)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        axes.legend()
    if goal is not None:
        left.axhline(goal, color="#0f9d6c", linestyle="--", linewidth=1)
    left.set_ylabel("% right")
    right.set_ylabel("loss")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
