"""Running a list of measurements: a bar that stands still while anything is timed, and results that survive Ctrl-C."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from abcfx.bench.contest import Tick
from abcfx.bench.results import Report
from abcfx.bench.workloads import WrongResult
from abcfx.cli import machine

Job = Callable[[Tick], Any]
INTERRUPTED = 130
LEGEND = "times are medians; a ratio is the median over the rounds: above 1 abcfx is faster"


class Bar:
    """A bar on stderr. Nothing redraws it but `tick`: a thread that did would take part of a core from the timings."""

    def __init__(self, total: int) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn(),
            console=Console(stderr=True), auto_refresh=False, transient=True,
            redirect_stdout=False, redirect_stderr=False, disable=not sys.stderr.isatty(),
        )  # fmt: skip
        self.task = self.progress.add_task("", total=total)
        self.name = ""

    def tick(self, what: str) -> None:
        self.progress.update(self.task, description=f"{self.name}: {what}"[:60], refresh=True)

    def advance(self) -> None:
        self.progress.update(self.task, advance=1, refresh=True)

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Out of the way while something is printed."""
        self.progress.stop()
        try:
            yield
        finally:
            self.progress.start()


def run_jobs(
    report: Report,
    jobs: Sequence[tuple[str, Job]],
    show: Callable[[Any], None],
    keep: Callable[[], None] = lambda: None,
) -> int:
    """Run the jobs in order, each (name, measure(tick) → measurement); 0, 1 for a wrong kernel, 130 for Ctrl-C.

    show   prints a measurement that was made
    keep   called after each one, and at the end: writes the files, so that nothing measured is lost
    """
    bar, code, name, done = Bar(len(jobs)), 0, "", 0
    try:
        with bar.progress, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of rivals' deprecated modules and of their compilers
            for name, job in jobs:
                bar.name = name
                measurement = job(bar.tick)
                if not any(measurement is kept for kept in report.measurements):
                    report.measurements.append(measurement)
                bar.advance()
                with bar.hidden():
                    show(measurement)
                done += 1
                keep()
        report.complete = True
    except KeyboardInterrupt:
        report.notes.append(f"interrupted while measuring {name}, after {done} of {len(jobs)}")
        code = INTERRUPTED
    except WrongResult as error:
        report.notes.append(str(error))
        print(f"abcfx bench: {error}", file=sys.stderr)
        code = 1
    keep()
    return code


def finish(report: Report, console: Console, written: Sequence[object]) -> None:
    """The machine, the notes and the files, as the last lines."""
    console.print(machine.line(report.machine), style="dim", highlight=False, soft_wrap=True)
    console.print(LEGEND, style="dim", highlight=False)
    for note in report.notes:
        console.print(note, style="yellow", highlight=False, soft_wrap=True)
    if written:
        console.print(f"written: {', '.join(map(str, written))}", highlight=False, soft_wrap=True)
