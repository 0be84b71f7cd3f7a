"""A training with its files in one folder: checkpoint, history, curves; can be stopped and go on at any moment.

DIR/checkpoint.pt   everything that is needed to go on exactly where it was written
DIR/history.csv     one row an epoch        DIR/curves.png   the same as a picture
DIR/telemetry.csv   one row an epoch and quantized layer (telemetry.py)
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from rich.console import Console

from abcfx.train.bases import trained_copy
from abcfx.train.checkpoint import load_checkpoint, save_checkpoint
from abcfx.train.evaluate import evaluate
from abcfx.train.history import draw_curves, write_csv
from abcfx.train.loop import Trainer
from abcfx.train.progress import Step, Steps
from abcfx.train.signals import Stopped, StopSignals
from abcfx.train.telemetry import Telemetry

KEPT = ("settings", "rows", "layer_rows", "seconds", "notes")


class Session:
    """Runs a Trainer to its end, epoch by epoch.

    name          of the training, in its lines and above its curves
    settings      what makes it the training it is (JSON-able): a checkpoint made under other ones is refused
    save_minutes  between checkpoints within an epoch; there is one at the end of each epoch anyway
    goal          accuracy of the float model, a line in the picture
    """

    def __init__(
        self,
        trainer: Trainer,
        out: Path,
        *,
        name: str,
        settings: dict[str, Any],
        console: Console,
        save_minutes: float = 10.0,
        goal: float | None = None,
    ) -> None:
        self.trainer, self.out, self.name, self.settings = trainer, out, name, settings
        self.console, self.save_seconds, self.goal = console, 60 * save_minutes, goal
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0  # spent in the epoch so far
        self.notes: dict[str, Any] = {}  # whatever the caller wants back after resuming
        self.telemetry = Telemetry(trainer.model) if trainer.ranks.rank == 0 else None
        self.layer_rows: list[dict[str, Any]] = []
        out.mkdir(parents=True, exist_ok=True)

    @property
    def checkpoint(self) -> Path:
        return self.out / "checkpoint.pt"

    def resume(self) -> None:
        """Go on from the checkpoint in the folder. ValueError if it belongs to a training with other settings."""
        state = load_checkpoint(self.checkpoint)
        before = state["settings"]
        changed = {key for key in before.keys() | self.settings if before.get(key) != self.settings.get(key)}
        if changed:
            differences = ", ".join(f"{k} was {before.get(k)!r}, is {self.settings.get(k)!r}" for k in sorted(changed))
            raise ValueError(f"{self.checkpoint} is of another training ({differences}): give the same options")
        self.trainer.load_state_dict(state["trainer"])
        for name in KEPT:
            setattr(self, name, state[name])
        if self.telemetry:
            self.telemetry.load_state_dict(state["telemetry"])

    def save(self) -> None:
        """Write the checkpoint; of several processes, the first one does."""
        if self.telemetry:
            kept = {name: getattr(self, name) for name in KEPT}
            state = {"trainer": self.trainer.state_dict(), "telemetry": self.telemetry.state_dict()}
            save_checkpoint(state | kept, self.checkpoint)

    def run(self) -> list[dict[str, Any]]:
        """Train to the end and return the rows of the history. Raises Stopped after SIGINT or SIGTERM, all saved."""
        trainer = self.trainer
        with StopSignals() as signals:
            while trainer.step < trainer.steps:
                self._epoch(signals)
                self.save()
                self._stop_if_asked(signals)
        return self.rows

    def _epoch(self, signals: StopSignals) -> None:
        """The rest of the epoch under way, and its row."""
        trainer = self.trainer
        epochs = -(-trainer.steps // trainer.batches)
        total = min(trainer.batches - trainer.step % trainer.batches, trainer.steps - trainer.step)
        start = saved = time.perf_counter()
        spent = self.seconds
        with Steps(self.console) as steps, steps.step(f"{self.name} {trainer.epoch + 1}/{epochs}", total) as step:
            trainer.model.train()
            while True:
                step.tick_loss(trainer.train_step())
                now = time.perf_counter()
                self.seconds = spent + now - start
                if trainer.epoch_ended:  # saved with its row, never without it
                    break
                if now - saved > self.save_seconds:
                    self.save()
                    saved = now
                self._stop_if_asked(signals)
            self._finish_epoch(step)

    def _stop_if_asked(self, signals: StopSignals) -> None:
        number = int(self.trainer.ranks.largest(signals.number or 0))  # all processes must stop at the same step
        if number:
            self.save()
            raise Stopped(number)

    def _finish_epoch(self, step: Step) -> None:
        trainer = self.trainer
        trainer.model.eval()
        trainer.ranks.average_statistics(trainer.model)
        score = evaluate(trained_copy(trainer.model), trainer.data, ranks=trainer.ranks)
        row = trainer.epoch_row() | {"test_loss": score.loss, "test_accuracy": score.accuracy, "seconds": self.seconds}
        self.rows.append(row)
        self.seconds = 0.0
        step.result = (
            f"loss {row['train_loss']:.3f}  train {row['train_accuracy']:.2f} %  test {row['test_accuracy']:.2f} %"
        )
        if self.telemetry:
            images = trainer.data.prepare(trainer.data.train_x[: trainer.recipe.batch])
            self.layer_rows += self.telemetry.look(images, row["epoch"])
            self._write()

    def _write(self) -> None:
        write_csv(self.rows, self.out / "history.csv")
        draw_curves(self.rows, self.out / "curves.png", self.name, self.goal)
        if self.layer_rows:
            write_csv(self.layer_rows, self.out / "telemetry.csv")
