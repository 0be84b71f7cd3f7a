"""A progress display: one line a step, with its bar, its time and what came out.

It is drawn only when something happens, never by a thread of its own: on two cores such a thread doubled the latencies
that were being measured beside it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TaskID, TextColumn
from rich.text import Text

DRAW_EVERY_S = 0.1
PRINT_EVERY_S = 60.0  # where the output is no terminal: a log shows that a long step is alive, and how far it is
NAME_WIDTH = 32  # of the longest step, so that the bars do not move when it begins


class SecondsColumn(ProgressColumn):
    """Seconds the step has taken."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        return Text(f"{seconds or 0:5.1f} s", style="dim")


class Step:
    """One line of the display. `result` is shown at its end."""

    def __init__(self, progress: Progress, task: TaskID) -> None:
        self._progress, self._task = progress, task
        self._drawn = self._printed = time.perf_counter()

    @property
    def result(self) -> str:
        return self._progress.tasks[self._task].fields["result"]

    @result.setter
    def result(self, text: str) -> None:
        self._progress.update(self._task, result=text)

    def tick(self) -> None:
        self._progress.advance(self._task)
        self._draw()

    def tick_loss(self, loss: float) -> None:
        self._progress.update(self._task, advance=1, result=f"loss {loss:.2f}")
        self._draw()

    def _draw(self) -> None:
        now = time.perf_counter()
        if now - self._drawn > DRAW_EVERY_S:
            self._progress.refresh()
            self._drawn = now
        if now - self._printed > PRINT_EVERY_S and not self._progress.console.is_terminal:
            record = self._progress.tasks[self._task]
            of = "" if record.total is None else f" of {record.total:.0f}"
            line = f"{record.description}: {record.completed:.0f}{of}  {self.result}".rstrip()
            self._progress.console.print(line, highlight=False)
            self._printed = now


class Steps:
    """A context: the display lives inside it.

    Where the output is no terminal, each step prints a line when it ends and one a minute while it runs.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn(f"{{task.description:<{NAME_WIDTH}}}"),
            BarColumn(bar_width=18),
            SecondsColumn(),
            TextColumn("{task.fields[result]}", style="bold"),
            console=console,
            disable=not console.is_terminal,
            auto_refresh=False,
        )

    def __enter__(self) -> Steps:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    @contextmanager
    def step(self, name: str, total: int | None = None) -> Iterator[Step]:
        """`total` ticks, or a bar that only moves."""
        task = self._progress.add_task(name, total=total, result="")
        step = Step(self._progress, task)
        self._progress.refresh()
        start = time.perf_counter()
        yield step
        record = self._progress.tasks[task]
        done = record.total or 1
        self._progress.update(task, total=done, completed=done, refresh=True)
        if not self._console.is_terminal:
            seconds = time.perf_counter() - start
            self._console.print(f"{name}: {step.result or 'done'} ({seconds:.1f} s)", highlight=False)
