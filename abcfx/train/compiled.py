"""The compiled parts of a training step, for Trainer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from abcfx.train.blocks import block_distance


def compiled_parts(model: nn.Module, teacher: nn.Module | None, simulate: bool = False) -> dict[str, Any]:
    """Keyword arguments of Trainer: `forward` on the abc backend, `teacher` and `distance` on inductor.

    simulate   dense products of quantized values in training steps (passes/simulate.py), not products on bits

    The teacher is frozen: its weights never change, so that inductor multiplies batch norms into them.
    """
    if teacher is not None:
        teacher = torch.compile(teacher, options={"freezing": True})
    return {
        "forward": torch.compile(model, backend="abc", options={"simulate": simulate}), "teacher": teacher,
        "distance": torch.compile(block_distance),
    }  # fmt: skip
