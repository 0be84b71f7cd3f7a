"""A small trainer for image classifiers, float or quantized: what the demo and the examples train with."""

from __future__ import annotations

from abcfx.train.checkpoint import load_checkpoint, save_checkpoint
from abcfx.train.evaluate import Score, evaluate
from abcfx.train.loop import Trainer, train
from abcfx.train.recipe import Recipe

__all__ = ["Recipe", "Score", "Trainer", "evaluate", "load_checkpoint", "save_checkpoint", "train"]
