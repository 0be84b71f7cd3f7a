"""One of several processes with a part of a batch: writes the averaged gradients. Started by torch.distributed.run."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from tiny import TinyNet, tiny_data

import abcfx
from abcfx.train import Recipe, Trainer, evaluate
from abcfx.train.distributed import Ranks


def a_trainer(levels: str, ranks: Ranks) -> Trainer:
    torch.manual_seed(3)
    model = abcfx.quantize_model(TinyNet(norm=False), 2, 2, levels=levels)
    abcfx.calibrate(model, tiny_data().calibration_batches(64), progress=False)
    recipe = Recipe(2, 0.01, batch=16, follow_blocks=1.0)
    return Trainer(model, tiny_data(), recipe, seed=1, teacher=TinyNet(False), ranks=ranks)


def gradients(levels: str, ranks: Ranks) -> dict[str, torch.Tensor]:
    """Of the first step, and with the name "score" what evaluation gives after it."""
    trainer = a_trainer(levels, ranks)
    loss = trainer.train_step()
    found = {name: p.grad.clone() for name, p in trainer.model.named_parameters()}
    score = evaluate(trainer.model.eval(), tiny_data(), ranks=ranks)
    return found | {"loss": torch.tensor(loss), "score": torch.tensor([score.accuracy, score.loss])}


if __name__ == "__main__":
    torch.set_num_threads(1)
    here = Ranks.from_environment()
    for kind in ("coded", "thermometer"):
        torch.save(gradients(kind, here), Path(sys.argv[1]) / f"{kind}{here.rank}.pt")
    here.leave()
