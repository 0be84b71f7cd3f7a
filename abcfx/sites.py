"""Which layers a model has, and a reason for each one that must stay float. Reads only."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.utils import parametrize

from abcfx.layers import QUANTIZED, ABCLayer
from abcfx.plan import LayerSite

# modules that hold matrices but are not layers with a float op to replace
_OPAQUE: dict[type[nn.Module], str] = {
    nn.MultiheadAttention: "nn.MultiheadAttention computes its projections inside one opaque op",
    nn.Bilinear: "bilinear multiplies two activations with a weight; it has no binary form",
    nn.RNNBase: "recurrent layers run as one opaque op; they have no binary form",
    nn.RNNCellBase: "recurrent cells run as one opaque op; they have no binary form",
}
NOT_LAYERS = (nn.Embedding, nn.EmbeddingBag, nn.LayerNorm, nn.GroupNorm, nn.PReLU, nn.modules.batchnorm._NormBase)


def float_class(module: nn.Module) -> type[nn.Module] | None:
    """The class of QUANTIZED whose forward this module runs, or None if it has a forward of its own."""
    for float_type in QUANTIZED:
        if isinstance(module, float_type) and type(module).forward is float_type.forward:
            own_conv = getattr(type(module), "_conv_forward", None)
            return float_type if own_conv is getattr(float_type, "_conv_forward", None) else None
    return None


def module_sites(model: nn.Module) -> Iterator[tuple[LayerSite, nn.Module]]:
    """Every layer module of the model with its name, in order of registration; shared modules once."""
    inside_opaque: dict[int, str] = {}
    for name, module in model.named_modules():
        for opaque, reason in _OPAQUE.items():
            if isinstance(module, opaque):
                inside_opaque.update({id(child): reason for child in module.modules() if child is not module})
                yield LayerSite(name, type(module).__name__, _weight_shape(module), reason=reason), module
        if isinstance(module, ABCLayer):
            reason = "already quantized"
            yield LayerSite(name, type(module).__name__, _weight_shape(module), reason=reason), module
        elif (float_type := float_class(module)) is not None:
            reason = inside_opaque.get(id(module)) or _reason(module, name)
            kind = QUANTIZED[float_type][1]
            groups = getattr(module, "groups", 1)
            yield LayerSite(name, kind, _weight_shape(module), groups, reason), module


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    weight = module.__dict__["_parameters"].get("weight")
    uninitialized = nn.parameter.is_lazy(weight)
    return () if weight is None or uninitialized else tuple(weight.shape)


def _reason(module: nn.Module, name: str) -> str | None:
    """Why a layer of a known class cannot be quantized; ValueError if its weight makes no sense at all."""
    if parametrize.is_parametrized(module, "weight"):
        return (
            "its weight is computed by a parametrization; torch.nn.utils.parametrize.remove_parametrizations makes "
            "it a plain one"
        )
    weight = module._parameters.get("weight")
    if weight is None:
        return "its weight is computed by a hook (weight_norm, pruning); remove the hook first"
    if nn.parameter.is_lazy(weight):
        raise ValueError(f"{name}: a lazy layer has no weight yet; run the model on one batch before quantizing it")
    if not weight.dtype.is_floating_point:
        return f"its weight is {weight.dtype}, not floating point"
    if weight.numel() == 0:
        return f"its weight {list(weight.shape)} is empty"
    if not weight.is_meta and not torch.isfinite(weight).all():
        bad = int((~torch.isfinite(weight)).sum())
        raise ValueError(
            f"{name}: {bad} of {weight.numel()} weights are NaN or infinite; repair them or exclude '{name}'"
        )
    return None


def functional_owners(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules whose own forward may use a matrix they hold: where F.linear, F.conv2d or x @ w may hide."""
    known = (ABCLayer, *NOT_LAYERS, *_OPAQUE)
    for name, module in model.named_modules():
        if isinstance(module, known) or float_class(module) is not None:
            continue
        if any(p is not None and p.dim() >= 2 and p.dtype.is_floating_point for p in module._parameters.values()):
            yield name, module
