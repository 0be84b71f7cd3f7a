"""What was measured, as plain records: made by contest.py, shown by tables.py, written as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import abcfx
from abcfx.bench.race import Spread
from abcfx.cli import machine

DISTURBED = 2.0  # on a quiet machine the middle 80 % of the ratios stay within a few percent of each other


@dataclass(frozen=True)
class RivalResult:
    """A rival kind: the form that counted and its time, or the reason why none ran.

    ms       of one call of `form`
    forms    ms of every form, or the reason why it does not run; rough and from before the race if it was not close
    note     what a reader must know, e.g. that it was timed in few rounds
    """

    form: str | None
    ms: Spread | None
    forms: dict[str, float | str]
    reason: str | None = None
    note: str | None = None


@dataclass(frozen=True)
class OurResult:
    """One (M, N). ms: f32 to f32, packing included; kernel_ms: from packed bits. None: not measured apart.

    ratios, kernel_ratios   kind → rival / ours in the same round; above 1 ours is faster
    error                   relative, against the float op on the dequantized operands
    """

    M: int
    N: int
    layout: str
    method: str
    ms: Spread
    ratios: dict[str, Spread]
    kernel_ms: Spread | None = None
    kernel_ratios: dict[str, Spread] = field(default_factory=dict)
    error: float | None = None
    basis: str = ""


@dataclass
class Measurement:
    """A workload: `about` holds its shape for machines, `title` for people."""

    name: str
    title: str
    about: dict[str, Any]
    rivals: dict[str, RivalResult] = field(default_factory=dict)
    ours: list[OurResult] = field(default_factory=list)

    @property
    def disturbed(self) -> bool:
        spreads = [spread for ours in self.ours for spread in ours.ratios.values()]
        return any(spread.high > DISTURBED * spread.low for spread in spreads)


@dataclass
class Report:
    """All of one run. `complete` is False until the last measurement is in, so an interrupted one says so."""

    command: str
    settings: dict[str, Any]
    measurements: list[Any] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    complete: bool = False
    machine: dict[str, Any] = field(default_factory=machine.describe)
    date: str = field(default_factory=lambda: datetime.now(timezone.utc).isoformat(timespec="seconds"))
    version: str = field(default_factory=lambda: getattr(abcfx, "__version__", "unknown"))

    def to_json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def save(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.to_json())


def command_line() -> str:
    return " ".join(["python -m abcfx", *sys.argv[1:]])
