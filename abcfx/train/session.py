"""A training with its files in one folder: checkpoint, history, curves; can be stopped and go on at any moment.

DIR/checkpoint.pt   everything that is needed to go on exactly where it was written
DIR/history.csv     one row an epoch        DIR/curves.png   the same as a picture
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console

from abcfx.train.checkpoint import load_checkpoint, save_checkpoint
from abcfx.train.evaluate import evaluate
from abcfx.train.history import draw_curves, write_csv
from abcfx.train.loop import Trainer
from abcfx.train.progress import Step, Steps
from abcfx.train.signals import Stopped, StopSignals


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
        self.rows, self.seconds = state["rows"], state["seconds"]

    def save(self) -> None:
        save_checkpoint(
            {
                "trainer": self.trainer.state_dict(),
                "rows": self.rows,
                "seconds": self.seconds,
                "settings": self.settings,
            },
            self.checkpoint,
        )

    def run(self, after_epoch: Callable[[int], None] = lambda epoch: None) -> list[dict[str, Any]]:
        """Train to the end and return the rows of the history. Stopped after SIGINT or SIGTERM, when all is saved."""
        trainer = self.trainer
        with StopSignals() as signals:
            while trainer.step < trainer.steps:
                self._epoch(signals)
                after_epoch(self.rows[-1]["epoch"])
                self.save()
        return self.rows

    def _epoch(self, signals: StopSignals) -> None:
        """The rest of the epoch under way, and its row."""
        trainer = self.trainer
        epochs = -(-trainer.steps // trainer.batches)
        done, first = trainer.step % trainer.batches, trainer.step
        total = min(trainer.batches - done, trainer.steps - trainer.step)
        start = saved = time.perf_counter()
        spent = self.seconds
        with Steps(self.console) as steps, steps.step(f"{self.name} {trainer.epoch + 1}/{epochs}", total) as step:
            trainer.model.train()
            while trainer.step == first or not trainer.epoch_ended:
                step.tick_loss(trainer.train_step())
                now = time.perf_counter()
                self.seconds = spent + now - start
                if signals.number is not None or now - saved > self.save_seconds:
                    self.save()
                    saved = now
                if signals.number is not None:
                    raise Stopped(signals.number)
            self._finish_epoch(step)

    def _finish_epoch(self, step: Step) -> None:
        trainer = self.trainer
        trainer.model.eval()
        score = evaluate(trainer.forward, trainer.data)
        row = trainer.epoch_row() | {"test_loss": score.loss, "test_accuracy": score.accuracy, "seconds": self.seconds}
        self.rows.append(row)
        self.seconds = 0.0
        step.result = (
            f"loss {row['train_loss']:.3f}  train {row['train_accuracy']:.2f} %  test {row['test_accuracy']:.2f} %"
        )
        write_csv(self.rows, self.out / "history.csv")
        draw_curves(self.rows, self.out / "curves.png", self.name, self.goal)
