"""Checkpoints that are whole or not there: written beside their place, then renamed."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import torch


def save_checkpoint(state: Any, path: str | Path) -> None:
    """torch.save, atomically: a process killed while it writes leaves the earlier file as it was."""
    path = Path(path)
    beside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with beside.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def load_checkpoint(path: str | Path) -> Any:
    """What save_checkpoint wrote, tensors on the CPU. FileNotFoundError or ValueError with one sentence."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist: there is no run to go on with")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        raise ValueError(f"{path} is not a checkpoint of this trainer ({problem})") from problem
