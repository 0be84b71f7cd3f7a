"""Where a training begins other than at the float model: at what an earlier quantized training came to.

From more bases to fewer, (3, 3) then (2, 2), the weights have learned already to live with quantization; from the same
bases, the rate rises and falls once more (Loshchilov and Hutter 2017, "SGDR").
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from abcfx.config import Config
from abcfx.train.checkpoint import load_checkpoint

# of a layer, these mean something for its own M, N and kind of levels only
OF_THE_PLAN = ("activation_scale", "activation_shift", "output_gain", "output_shift", "weight_start")


def begin_with(model: nn.Module, config: Config, path: Path) -> bool:
    """Load the weights and batch norms of an earlier run into `model`, quantized by `config` and not calibrated.

    path    checkpoint.pt of that run, which holds its settings and the state of its model
    →       whether its levels and weight bases were taken too, because that run had the same `config`; the model is to
            be calibrated otherwise

    Raises FileNotFoundError, or ValueError for what is no such checkpoint or belongs to another network.
    """
    document = load_checkpoint(path)
    try:
        state, settings = dict(document["trainer"]["model"]), document["settings"]
    except (KeyError, TypeError):
        raise ValueError(f"{path} is not the checkpoint.pt of a training: give that of an earlier run") from None
    same = _quantization(settings) == _quantization(vars(config))
    if not same:
        state = {key: value for key, value in state.items() if key.rpartition(".")[2] not in OF_THE_PLAN}
    try:
        model.load_state_dict(state)
    except RuntimeError as problem:
        raise ValueError(f"{path} is of another network than {type(model).__name__}: {problem}") from None
    return same


def _quantization(settings: dict[str, Any]) -> dict[str, Any]:
    keys = ("M", "N", "basis", "levels", "per_channel", "overrides")
    return json.loads(json.dumps({key: settings.get(key) for key in keys}))
