"""Where a training begins other than at the float model: at what an earlier quantized training came to.

From more bases to fewer, (3, 3) then (2, 2), the weights have learned already to live with quantization; from the same
bases, the rate rises and falls once more (Loshchilov and Hutter 2017, "SGDR").
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from abcfx.api import plan_of
from abcfx.config import Config
from abcfx.layers.functional import owns_weight
from abcfx.ops.warm_start import usual_limit
from abcfx.ops.weight_cache import fitted
from abcfx.packed import load_packed, recipe_of
from abcfx.plan import RULES, SEARCHED, LayerPlan
from abcfx.train.checkpoint import load_checkpoint

# of a layer, these mean something for its own M, N and kind of levels only; the last one for its kind of bases only
OF_THE_PLAN = ("activation_scale", "activation_shift", "output_gain", "output_shift", "weight_start")
OF_THE_BASIS = OF_THE_PLAN[-1:]


def begin_with(model: nn.Module, config: Config, path: Path, float_model: nn.Module) -> bool:
    """Load the weights and batch norms of an earlier run into `model`, quantized by `config` and not calibrated.

    path    checkpoint.pt of that run, which holds its settings and the state of its model; or a packed model (.abc) of
            `float_model`'s architecture, whose weights are the quantized ones and whose bases are where training starts
    →       whether its levels were taken too, because that run had the same M, N and kind of levels; the model is to be
            calibrated otherwise. With the same kind of weight bases, these or where their fit starts are taken as well

    Raises FileNotFoundError, or ValueError for what is no such file or belongs to another network.
    """
    earlier = load_packed(path, float_model) if path.suffix == ".abc" else None
    if earlier is not None:
        state, forms = earlier.state_dict(), [_forms(each) for each in (earlier, model)]
    else:
        state, settings = _state_and_settings(path)
        forms = [_quantization(each) for each in (settings, vars(config))]
    same = forms[0] == forms[1]
    levels = _without_basis(forms[0]) == _without_basis(forms[1])
    dropped = () if same else OF_THE_BASIS if levels else OF_THE_PLAN
    state = {key: value for key, value in state.items() if key.rpartition(".")[2] not in dropped}
    try:
        model.load_state_dict(state)
    except RuntimeError as problem:
        raise ValueError(f"{path} is of another network than {type(model).__name__}: {problem}") from None
    if same and earlier is not None:
        _take_bases(model, earlier)
    return levels


def _take_bases(model: nn.Module, packed: nn.Module) -> None:
    """Let training start from the bases of a packed model: a fit of its weights finds others, as near to them."""
    for layer, source in zip(model.modules(), packed.modules(), strict=True):
        if owns_weight(layer) and layer.plan.basis in SEARCHED:
            with torch.no_grad():
                bases, scales, _ = fitted(source.weight, recipe_of(source))
            layer.set_weight(bases, scales, usual_limit(layer.plan.weight_bases))


def _state_and_settings(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    document = load_checkpoint(path)
    try:
        return dict(document["trainer"]["model"]), document["settings"]
    except (KeyError, TypeError):
        raise ValueError(
            f"{path} is not the checkpoint.pt of a training: give that of an earlier run, or a packed model (.abc)"
        ) from None


def _forms(quantized: nn.Module) -> dict[str, LayerPlan]:
    """What decides the values of each layer; how gradients flow may change."""
    return {name: replace(plan, grad_bases=0, ste=RULES[0]) for name, plan in plan_of(quantized).layers.items()}


def _without_basis(forms: dict[str, Any]) -> dict[str, Any]:
    """Of `_forms` or `_quantization`: all but how the weights of layers without rules of their own are fitted."""
    plain = {
        key: replace(form, basis=SEARCHED[0]) if isinstance(form, LayerPlan) else form for key, form in forms.items()
    }
    return plain | {"basis": None}


def _quantization(settings: dict[str, Any]) -> dict[str, Any]:
    keys = ("M", "N", "basis", "levels", "per_channel", "overrides")
    return json.loads(json.dumps({key: settings.get(key) for key in keys}))
