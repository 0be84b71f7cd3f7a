"""Float training before the quantization, in a folder of its own, with the same files and the same resumption.

DIR/float/model.pt   state_dict of the trained model, beside the files of session.py
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
from rich.console import Console
from torch import nn

from abcfx.data import Dataset
from abcfx.train.finetune import Run
from abcfx.train.loop import Trainer
from abcfx.train.recipe import Recipe
from abcfx.train.session import Session


def pretrained(name: str, model: nn.Module, data: Dataset, recipe: Recipe, how: Run, console: Console) -> None:
    """Train the float `model` in place, in DIR/float. With how.resume, go on there, or only load a finished one."""
    settings: dict[str, Any] = {"model": name, "seed": how.seed, "train_images": len(data.train_y), **asdict(recipe)}
    forward = torch.compile(model) if how.compiled else None
    trainer = Trainer(model, data, recipe, seed=how.seed, ranks=how.ranks, forward=forward)
    session = Session(
        trainer, how.out / "float", name=f"{name} float", settings=settings, console=console,
        save_minutes=how.save_minutes,
    )  # fmt: skip
    if how.resume and session.checkpoint.is_file():
        session.resume()
    session.run()
    model.eval()
    if how.ranks.rank == 0:
        torch.save(model.state_dict(), session.out / "model.pt")
