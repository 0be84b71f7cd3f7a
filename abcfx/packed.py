"""The packed form of a quantized model on disk: bit planes and scales in place of float weights.

    abcfx.save_packed(quantized, "model.abc")
    quantized = abcfx.load_packed("model.abc", float_architecture)

M bits for each weight and M scales for each output channel; everything else (first and last layer, batch norm, biases,
activation levels) as the state_dict has it. The file is one `torch.save` of tensors and text, read with weights_only.
"""

from __future__ import annotations

import copy
import glob
import pickle
import zipfile
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from abcfx.api import plan_of, quantize_model
from abcfx.config import Config
from abcfx.layers import ABCLayer
from abcfx.layers.functional import owns_weight
from abcfx.ops.weight_cache import WeightRecipe, adopt, fitted
from abcfx.plan import LayerPlan, Plan

FORMAT = 1


def recipe_of(layer: ABCLayer) -> WeightRecipe:
    plan = layer.plan
    transposed, groups = getattr(layer, "transposed", False), getattr(layer, "groups", 1)
    return WeightRecipe(plan.weight_bases, plan.basis, plan.per_channel, transposed, groups)


def output_channels(weight: Tensor, recipe: WeightRecipe) -> int:
    return weight.shape[1] * recipe.groups if recipe.transposed else weight.shape[0]


def packed_bytes(layer: ABCLayer) -> int:
    """Bytes of the weight in the file: ⌈M·weights / 8⌉ for the planes, 4 for each scale."""
    recipe = recipe_of(layer)
    scales = output_channels(layer.weight, recipe) if recipe.per_channel else 1
    return (recipe.weight_bases * layer.weight.numel() + 7) // 8 + 4 * recipe.weight_bases * scales


def packable_weights(model: nn.Module) -> dict[int, ABCLayer]:
    """id(Parameter) → layer, for each weight that only quantized layers with one and the same recipe use.

    A weight that something else also reads stays float in the file: an embedding tied to an output layer, and the
    weights of functional layers, which the module around them owns and may use as it likes.
    """
    users: dict[int, list[nn.Module]] = {}
    for module in model.modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                users.setdefault(id(parameter), []).append(module)
    found = {}
    for layer in model.modules():
        if owns_weight(layer):
            sharing = users[id(layer.weight)]
            if all(isinstance(user, ABCLayer) for user in sharing) and len(set(map(recipe_of, sharing))) == 1:
                found[id(layer.weight)] = layer
    return found


def save_packed(model: nn.Module, path: str | PathLike[str]) -> None:
    """Write a quantized model in its packed form.

    Raises ValueError for a model that quantize_model did not make, NotCalibratedError before calibration.
    """
    plan = plan_of(model)
    for layer in model.modules():
        if isinstance(layer, ABCLayer):
            layer.levels_or_raise()
    packable, done = packable_weights(model), {}
    state, planes = {}, {}
    for name, value in model.state_dict(keep_vars=True).items():
        if id(value) in packable:
            # by identity, so that a tied weight is in the file once
            if id(value) not in done:
                done[id(value)] = _planes(packable[id(value)])
            planes[name] = done[id(value)]
        else:
            state[name] = value.detach() if isinstance(value, Tensor) else value
    torch.save({"abcfx_packed": FORMAT, "plan": plan.to_json(), "state": state, "planes": planes}, path)


def load_packed(path: str | PathLike[str], model: nn.Module) -> nn.Module:
    """A new quantized model with the contents of the file, in eval mode, with the outputs of the one that was saved.

    model   the architecture, not changed: the float model that quantize_model took, or a quantized one of the same plan

    Raises ValueError if the file is not a packed model or does not fit the architecture, saying where.
    """
    document = _read(path)
    plan = Plan.from_json(document["plan"])
    quantized = any(isinstance(module, ABCLayer) for module in model.modules())
    model = copy.deepcopy(model) if quantized else quantize_model(model, config=_config_of(plan))
    if dict(plan_of(model).layers) != dict(plan.layers):
        differing = sorted(set(plan_of(model).layers.items()) ^ set(plan.layers.items()), key=str)[0][0]
        raise ValueError(f"{path} was saved with another plan for {differing}; quantize the model with the same one")
    missing, unexpected = model.load_state_dict(document["state"], strict=False)
    lacking = sorted(set(missing) - set(document["planes"])) + sorted(set(document["planes"]) - set(missing))
    if lacking or unexpected:
        raise ValueError(f"{path} does not fit this architecture: {', '.join([*lacking, *unexpected][:5])}")
    packable = packable_weights(model)
    for name, planes in document["planes"].items():
        layer = packable.get(id(model.get_parameter(name)))
        if layer is None:
            raise ValueError(f"{path} holds planes for {name}, which other parts of this model use as a float tensor")
        _adopt_planes(layer, planes, f"{path}: {name}")
    return model.eval()


def _planes(layer: ABCLayer) -> dict[str, Tensor]:
    with torch.no_grad():  # the bases of evaluation, not those of a training step
        bases, scales, _ = fitted(layer.weight, recipe_of(layer))
    bits = torch.from_numpy(np.packbits(bases.cpu().numpy() < 0, bitorder="little"))
    return {"bits": bits, "scales": scales.cpu() if layer.plan.per_channel else scales[:, :1].clone().cpu()}


def _adopt_planes(layer: ABCLayer, planes: dict[str, Tensor], where: str) -> None:
    weight, recipe = layer.weight, recipe_of(layer)
    outputs = output_channels(weight, recipe)
    shape = (recipe.weight_bases, outputs, weight.numel() // outputs)
    if planes["bits"].numel() != (recipe.weight_bases * weight.numel() + 7) // 8:
        raise ValueError(f"{where} has {planes['bits'].numel()} bytes of planes, its layer needs {shape} bits")
    bits = np.unpackbits(planes["bits"].numpy(), count=recipe.weight_bases * weight.numel(), bitorder="little")
    bases = 1 - 2 * torch.from_numpy(bits.astype(np.int8)).view(shape)
    scales = planes["scales"].expand(shape[:2]).contiguous()
    adopt(weight, recipe, bases.to(weight.device), scales.to(weight.device))


def _config_of(plan: Plan) -> Config:
    """A config that gives exactly this plan again."""
    return Config(
        include=tuple(glob.escape(name) for name in plan.layers),
        overrides={glob.escape(name): _rule(layer) for name, layer in plan.layers.items()},
    )


def _rule(plan: LayerPlan) -> dict[str, Any]:
    return {
        "M": plan.weight_bases,
        "N": plan.activation_bases,
        "basis": plan.basis,
        "levels": plan.levels,
        "per_channel": plan.per_channel,
        "grad_bases": plan.grad_bases,
        "binary": plan.binary,
        "ste": plan.ste,
    }


def _read(path: str | PathLike[str]) -> dict[str, Any]:
    wrong = f"{path} is not a packed model of abcfx (abcfx.save_packed writes them)"
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):  # what torch.save writes; anything else would be read as an old pickle
            raise ValueError(wrong)
    try:
        document = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as problem:
        raise ValueError(wrong) from problem
    if not isinstance(document, dict) or "abcfx_packed" not in document:
        raise ValueError(wrong)
    if document["abcfx_packed"] != FORMAT:
        raise ValueError(f"{path} has packed format {document['abcfx_packed']}; this version reads {FORMAT}")
    return document
