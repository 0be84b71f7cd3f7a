"""From a float model to a trained quantized one: evaluate, quantize, calibrate, train, and write what came out.

DIR/result.json     accuracies of the float, the calibrated and the trained model, with all settings
DIR/model.pt        state_dict of the trained model        DIR/model.abc   the same, packed (abcfx.load_packed)
DIR/stage1/         files of the first of two stages, as session.py names them
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from abcfx.api import quantize_model
from abcfx.calibrate import calibrate
from abcfx.config import Config
from abcfx.data import Dataset
from abcfx.packed import save_packed
from abcfx.train.augment import augmented_batches
from abcfx.train.bases import trained_copy
from abcfx.train.compiled import compiled_parts
from abcfx.train.distributed import ALONE, Ranks
from abcfx.train.evaluate import evaluate, reestimate_batch_norm
from abcfx.train.loop import Trainer
from abcfx.train.recipe import Recipe
from abcfx.train.session import Session
from abcfx.train.start import begin_with

FIRST_STAGE_BASES = 5  # weight bases of the first of two stages: relative error 0.3 % on normal weights


@dataclass(frozen=True)
class Run:
    """How a fine-tuning is run.

    out             folder of the results            resume        go on from its checkpoint
    calibration     training images to calibrate on  norm_images   to take batch-norm statistics from again at the end
    distill         follow the float model           compiled      torch.compile of model (backend="abc") and teacher
    simulate        compiled: dense products of quantized values in training steps (passes/simulate.py)
    start           checkpoint or packed model of an earlier run to begin with, of any M and N (start.py)
    stages          2: train first with FIRST_STAGE_BASES weight bases, so that activations are quantized alone, for
                    half of the epochs; then with config.M for all of them
    """

    out: Path
    resume: bool = False
    seed: int = 0
    calibration: int = 1000
    norm_images: int = 0
    distill: bool = True
    compiled: bool = False
    simulate: bool = False
    stages: int = 1
    save_minutes: float = 10.0
    ranks: Ranks = ALONE
    start: Path | None = None


class FineTuning:
    """One fine-tuning; `run` does it. `name` is that of the network, for lines and titles.

    teacher   the model to follow in the place of the float one, of any architecture with the same inputs and classes
    """

    def __init__(
        self,
        name: str,
        float_model: nn.Module,
        data: Dataset,
        config: Config,
        recipe: Recipe,
        how: Run,
        console: Console,
        more: dict[str, Any] | None = None,
        teacher: nn.Module | None = None,
    ) -> None:
        self.name, self.float_model, self.data = name, float_model.eval(), data
        self.config, self.recipe, self.how, self.console = config, recipe, how, console
        self.more = more or {}  # further settings that a resumed run must share
        self.teacher = self.float_model if teacher is None else teacher.eval()
        self.float_accuracy = 0.0

    def run(self) -> dict[str, Any]:
        """The document that is written to result.json."""
        how, final = self.how, self.how.out / "checkpoint.pt"
        self.float_accuracy = evaluate(self.float_model, self.data, ranks=how.ranks).accuracy
        self.say(f"float: {self.float_accuracy:.2f} % of {len(self.data.test_y)} test images")
        if self.teacher is not self.float_model:
            self.say(f"teacher: {self.accuracy(self.teacher):.2f} %")
        begun = how.resume and final.is_file()
        model = self.calibrated(self.config)
        if how.stages == 2 and not begun:
            self.take_over(model, self.first_stage())
        session = self.session(self.config, self.recipe, model, how.out, f"{self.name} {label(self.config)}")
        if begun or (how.resume and how.stages == 1):
            session.resume()
        else:
            session.notes["calibrated_accuracy"] = self.accuracy(model)
            self.say(f"{label(self.config)}, before training: {session.notes['calibrated_accuracy']:.2f} %")
        session.run()
        return self.finish(trained_copy(model), session)

    def first_stage(self) -> nn.Module:
        """The model trained with many weight bases."""
        config = replace(self.config, M=max(FIRST_STAGE_BASES, self.config.M))
        recipe = replace(self.recipe, epochs=self.recipe.epochs / 2)
        model, out = self.calibrated(config), self.how.out / "stage1"
        session = self.session(config, recipe, model, out, f"{self.name} {label(config)}")
        if self.how.resume and session.checkpoint.is_file():
            session.resume()
        session.run()
        self.say(f"{label(config)}, first stage: {self.accuracy(trained_copy(model)):.2f} %")
        return model

    def take_over(self, model: nn.Module, trained: nn.Module) -> None:
        """Weights and levels of the first stage; batch norm sees the outputs of the new bases before it is used."""
        model.load_state_dict(trained.state_dict())
        self.take_norms(model, self.how.calibration)

    def take_norms(self, model: nn.Module, images: int) -> None:
        """Batch-norm statistics from images augmented as in training: from plain ones they cost points of accuracy."""
        reestimate_batch_norm(model, augmented_batches(self.data, self.recipe, self.how.seed, images))

    def calibrated(self, config: Config) -> nn.Module:
        model = quantize_model(self.float_model, config=config)
        if self.how.start is not None and begin_with(model, config, self.how.start, self.float_model):
            return model
        return calibrate(model, self.data.calibration_batches(self.how.calibration), progress=False)

    def session(self, config: Config, recipe: Recipe, model: nn.Module, out: Path, name: str) -> Session:
        how, teacher = self.how, self.teacher if self.how.distill else None
        parts = compiled_parts(model, teacher, how.simulate) if how.compiled else {"teacher": teacher}
        trainer = Trainer(model, self.data, recipe, seed=how.seed, ranks=how.ranks, **parts)
        return Session(
            trainer, out, name=name, settings=self.settings(config, recipe), console=self.console,
            save_minutes=how.save_minutes, goal=self.float_accuracy,
        )  # fmt: skip

    def settings(self, config: Config, recipe: Recipe) -> dict[str, Any]:
        """What two parts of a run must have in common, plain values only."""
        how = self.how
        own = {"seed": how.seed, "calibration": how.calibration, "distill": how.distill, "stages": how.stages}
        own |= {"simulate": True} if how.simulate else {}
        own |= {} if how.start is None else {"start": str(how.start)}
        images = {"train_images": len(self.data.train_y), "test_images": len(self.data.test_y)}
        document = asdict(config) | asdict(recipe) | own | images | {"processes": how.ranks.world} | self.more
        return json.loads(json.dumps({"model": self.name, **document}))

    def accuracy(self, model: nn.Module) -> float:
        return evaluate(model.eval(), self.data, ranks=self.how.ranks).accuracy

    def finish(self, model: nn.Module, session: Session) -> dict[str, Any]:
        how = self.how
        result = {"float_accuracy": self.float_accuracy, **session.notes, "accuracy": self.accuracy(model)}
        epochs = f"{self.recipe.epochs:g} epoch{'s' * (self.recipe.epochs != 1)}"
        self.say(f"{label(self.config)}, after {epochs}: {result['accuracy']:.2f} %")
        if how.norm_images:
            self.take_norms(model, how.norm_images)
            result["accuracy_with_new_norms"] = self.accuracy(model)
            self.say(f"with batch-norm statistics taken again: {result['accuracy_with_new_norms']:.2f} %")
        result["settings"] = session.settings
        if how.ranks.rank == 0:
            (how.out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
            torch.save(model.state_dict(), how.out / "model.pt")
            save_packed(model, how.out / "model.abc")
        return result

    def say(self, line: str) -> None:
        self.console.print(line, highlight=False, soft_wrap=True)


def label(config: Config) -> str:
    gradients = f" K={config.grad_bases}" if config.grad_bases else ""
    return f"M={config.M} N={config.N}{gradients}"
