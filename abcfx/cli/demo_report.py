"""What the demo found: a record that fills up as it goes, its table, and its JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from abcfx.bench.race import Race
from abcfx.cli.units import milliseconds, size

DISTURBED = 2.0  # on a quiet machine the middle 80 % of the ratios stay within a few percent of each other


@dataclass
class Point:
    """One (M, N) after calibration only: accuracy in percent, and speed against compiled float (None: not measured)."""

    M: int
    N: int
    accuracy: float
    race: Race | None = None


@dataclass
class Results:
    """Empty fields are what has not been done (yet): an interrupted demo shows the rest of them."""

    data: str
    images: int
    M: int
    N: int
    setup: dict[str, Any]
    float_accuracy: float | None = None
    calibrated_accuracy: float | None = None
    tuned_accuracy: float | None = None
    float_bytes: int | None = None
    packed_bytes: int | None = None
    races: list[Race] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    def note_disturbed_races(self) -> None:
        """Say so in one line if the rounds of a race differ too much to be trusted."""
        races = [*self.races, *(point.race for point in self.points if point.race)]
        if any(race.high > DISTURBED * race.low for race in races):
            self.notes.append("Something else kept the processor busy while timing: the wide ranges say how much.")

    def table(self) -> Group:
        """Float on the left, quantized beside it, the comparison at the end; rows not reached are left out."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1))
        table.add_column("", no_wrap=True)
        table.add_column("float", justify="right", no_wrap=True)
        table.add_column(f"M={self.M}, N={self.N}", justify="right", no_wrap=True)
        table.add_column("", no_wrap=True)
        for row in (*self._accuracy_rows(), *self._size_rows(), *self._speed_rows()):
            table.add_row(*row)
        return Group(Text(f"{self.data}, {self.images} test images", "bold"), table)

    def points_table(self) -> Group:
        """The sweep over (M, N): what the picture shows."""
        table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1))
        table.add_column("M×N", no_wrap=True)
        table.add_column("accuracy", justify="right", no_wrap=True)
        raced = [point.race for point in self.points if point.race]
        if raced:
            table.add_column(f"speed against float, batch {raced[0].batch}", justify="right", no_wrap=True)
        for point in self.points:
            speed = [_speed(point.race)] if point.race else ["–"] if raced else []
            table.add_row(f"{point.M}×{point.N}", f"{point.accuracy:.1f} %", *speed)
        return Group(Text("After calibration only, without training", "bold"), table)

    def _accuracy_rows(self) -> list[tuple]:
        before, rows = self.float_accuracy, []
        for name, after in (("calibrated", self.calibrated_accuracy), ("fine-tuned", self.tuned_accuracy)):
            if before is not None and after is not None:
                rows.append((f"accuracy, {name}", f"{before:.1f} %", f"{after:.1f} %", _points(after - before)))
        if before is not None and not rows:
            rows.append(("accuracy", f"{before:.1f} %", "", ""))
        return rows

    def _size_rows(self) -> list[tuple]:
        if self.float_bytes is None or self.packed_bytes is None:
            return []
        smaller = Text(f"{self.float_bytes / self.packed_bytes:.1f}× smaller", "bold green")
        return [("size on disk", size(self.float_bytes), size(self.packed_bytes), smaller)]

    def _speed_rows(self) -> list[tuple]:
        return [
            (f"latency, batch {race.batch}", milliseconds(race.rival_ms), milliseconds(race.ours_ms), _speed(race))
            for race in self.races
        ]


def _points(change: float) -> Text:
    return Text(f"{change:+.1f} points".replace("-", "−"), "green" if change > -1 else "yellow")


def _speed(race: Race) -> Text:
    """Median ratio, and the middle 80 % of the rounds."""
    word, style = ("faster", "bold green") if race.ratio >= 1 else ("as fast", "yellow")
    return Text.assemble((f"{race.ratio:.2f}× {word}", style), (f" ({race.low:.2f}–{race.high:.2f})", "dim"))
