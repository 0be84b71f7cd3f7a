"""quantize_model and quantize_: find the layers, plan, replace. quantize_model never touches its argument."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from abcfx.config import Config
from abcfx.debug import log
from abcfx.layers import QUANTIZED
from abcfx.layers.functional_module import build_functional
from abcfx.passes.functional import TracedFunctional, trace_functional
from abcfx.passes.plan_layers import plan_layers
from abcfx.plan import PRODUCTS, LayerPlan, LayerSite, Plan
from abcfx.sites import float_class, functional_owners, module_sites

if TYPE_CHECKING:
    from abcfx.planner import BudgetPlan

FilterFn = Callable[[nn.Module, str], bool]


def quantize_model(
    model: nn.Module,
    M: int = 2,
    N: int = 2,
    *,
    basis: str = "alternating",
    levels: str = "coded",
    per_channel: bool = True,
    include: str | Iterable[str] = (),
    exclude: str | Iterable[str] = (),
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    first_last_float: bool = True,
    filter_fn: FilterFn | None = None,
    config: Config | None = None,
    grad_bases: int = 0,
    binary: Iterable[str] = PRODUCTS,
    ste: str = "identity",
    plan: Plan | BudgetPlan | None = None,
    budget: Mapping[str, float] | None = None,
    loader: Iterable[Any] | None = None,
) -> nn.Module:
    """A quantized copy of `model`: W ≈ Σ_p α_p B_p with M bases, A ≈ Σ_q β_q A_q with N; the original is untouched.

    Every convolution and linear layer that can be replaced is; `plan_of(new)` says which, and why each other one was
    left in float. Calibrate before use: `abcfx.calibrate(new, batches)`.

    filter_fn(module, name) → bool: quantize only where it is true, on top of the other rules.
    config: a Config instead of the single arguments.
    grad_bases: K > 0 rounds gradients to K bit planes, stochastically and without bias, and runs the backward products
        on bits; `binary` says which of "output", "grad_input", "grad_weight" are to run on bits, and `ste` which
        straight-through rule the weights follow, "identity" or "abc" (docs/adjoints.md).
    plan: what each layer gets, from `plan_of`, `abcfx.plan` or a file of either; every other layer stays float. M, N
        and the rules by name do not count then.
    budget: let the planner choose M, N or float for each layer, e.g. {"speedup": 2.0}; `loader` gives its calibration
        batches, and the result is calibrated on them. `abcfx.plan` takes more settings (docs/planner.md).

    Raises ValueError for M or N outside 1..8, for rules that match nothing, for NaN or infinite weights (naming the
    layer), for a plan of layers that are not there, for a budget that cannot be kept (naming the nearest) and for a
    model without any layer that can be quantized; TypeError for something that is not an nn.Module.
    Source: Lin, Zhao, Pan 2017, "Towards Accurate Binary Convolutional Neural Network".
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"quantize_model takes an nn.Module, got {type(model).__name__}")
    if budget is not None:
        if loader is None or not (plan is config is filter_fn is None) or overrides:
            raise ValueError(
                "budget needs loader=batches to calibrate on, and takes no plan, config, overrides or filter_fn; "
                "abcfx.plan(model, loader, budget, candidates=..., fixed=...) has settings for each layer"
            )
        layer = LayerPlan(basis=basis, levels=levels, per_channel=per_channel)
        training = {"grad_bases": grad_bases, "binary": binary, "ste": ste}
        rules = {"include": include, "exclude": exclude, "first_last_float": first_last_float}
        return _within(model, budget, list(loader), layer, training, rules)
    if config is None:
        config = Config(
            M,
            N,
            basis,
            levels,
            per_channel,
            include,
            exclude,
            overrides or {},
            first_last_float,
            grad_bases,
            binary,
            ste,  # type: ignore[arg-type]
        )
    with torch.inference_mode(False):  # a copy made of inference tensors could neither be trained nor watched for edits
        return _quantize(copy.deepcopy(model), config, filter_fn, getattr(plan, "plan", plan))


def quantize_(model: nn.Module, config: Config | None = None, filter_fn: FilterFn | None = None) -> None:
    """Quantize in place: the layers of `model` are replaced, their Parameters stay the same objects.

    Raises as quantize_model does, before anything is changed; and ValueError if the model is itself one layer.
    """
    if float_class(model) is not None:
        raise ValueError("the model is itself one layer and cannot be replaced in place; use quantize_model")
    _quantize(model, config or Config(), filter_fn)


def plan_of(model: nn.Module) -> Plan:
    """What quantize_model decided: LayerPlan of each quantized layer, reason of each other one."""
    plan = getattr(model, "_abcfx_plan", None)
    if plan is None:
        raise ValueError("this model was not made by abcfx.quantize_model")
    return plan


def _within(
    model: nn.Module, budget: Mapping[str, float], batches: list[Any], layer: LayerPlan, training: Mapping[str, Any],
    rules: Mapping[str, Any],
) -> nn.Module:  # fmt: skip
    """A model planned for the budget, with counts from 1 to 5 of the kinds of `layer`, and calibrated."""
    from abcfx.calibrate import calibrate
    from abcfx.planner.planning import grid, plan  # it calls quantize_model

    planned = plan(model, batches, budget, candidates=grid(layer), **rules).plan
    layers = {name: replace(chosen, **training) for name, chosen in planned.layers.items()}
    made = quantize_model(model, plan=Plan(layers, planned.reasons))
    return calibrate(made, batches) if layers else made


def _quantize(model: nn.Module, config: Config, filter_fn: FilterFn | None, plan: Plan | None = None) -> nn.Module:
    layers = {site.name: (site, module) for site, module in module_sites(model)}
    traced = {name: trace_functional(module, name) for name, module in functional_owners(model)}
    sites, modules = _in_order_of_registration(model, layers, traced)
    if plan is None:
        config.check_globs(site.name for site in sites)
        plan = plan_layers(sites, config, lambda name: filter_fn is None or filter_fn(modules[name], name))
    elif plan.layers:
        plan = _checked(plan, sites)
    else:
        model._abcfx_plan = plan  # all float is a plan, too
        return model
    if not plan.layers:
        reasons = "; ".join(f"{name or '(root)'}: {reason}" for name, reason in plan.reasons.items())
        raise ValueError(f"no layer can be quantized ({reasons or 'the model has no convolution or linear layer'})")
    new = {
        id(module): QUANTIZED[float_class(module)][0].from_float(module, plan.layers[name], name)
        for name, (_, module) in layers.items()
        if name in plan.layers
    }
    model = _replace(model, new)
    for name in reversed(traced):  # children before the modules that hold them
        if any(site.name in plan.layers for site in traced[name].sites):
            model = _replace(model, {id(traced[name].module): build_functional(traced[name], plan.layers)})
    for name, layer_plan in plan.layers.items():
        log(1, f"{name}: quantized, {layer_plan}")
    for name, reason in plan.reasons.items():
        log(1, f"{name}: float, {reason}")
    _leave_fast_paths(model)
    model._abcfx_plan = plan
    return model


def _checked(plan: Plan, sites: list[LayerSite]) -> Plan:
    """The plan, if this model has its layers; ValueError naming one that is missing or cannot be quantized."""
    found = {site.name: site for site in sites}
    for name in plan.layers:
        if name not in found:
            raise ValueError(f"the plan has a layer '{name}' that the model has not; it was made for another model")
        if found[name].reason is not None:
            raise ValueError(f"the plan quantizes '{name}', which cannot be: {found[name].reason}")
    others = {site.name: site.reason or "not in the plan" for site in sites if site.name not in plan.layers}
    return Plan(plan.layers, {name: plan.reasons.get(name, reason) for name, reason in others.items()})


def _in_order_of_registration(
    model: nn.Module, layers: Mapping[str, tuple[LayerSite, nn.Module]], traced: Mapping[str, TracedFunctional]
) -> tuple[list[LayerSite], dict[str, nn.Module]]:
    """All sites, and the module of each: the layer itself, or the one whose forward has the functional layer in it."""
    sites, modules = [], {}
    for name, module in model.named_modules():
        here = [layers[name][0]] if name in layers else []
        for site in here + (traced[name].sites if name in traced else []):
            sites.append(site)
            modules[site.name] = module
    return sites, modules


def _replace(model: nn.Module, new: Mapping[int, nn.Module]) -> nn.Module:
    """Put new modules in the place of old ones, everywhere they are used."""
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if id(child) in new:
                parent._modules[name] = new[id(child)]
    return new.get(id(model), model)


def _leave_fast_paths(model: nn.Module) -> None:
    """The fused inference path of the transformer encoder reads float weights and would pass quantized layers by."""
    for module in model.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0
        elif isinstance(module, nn.TransformerEncoder):
            module.use_nested_tensor = False
