"""A module whose own functional layers are quantized. Its class is a subclass of the module's, made on demand, so
isinstance, attributes and methods stay as they were; only `forward` differs.
"""

from __future__ import annotations

import functools
import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from abcfx.layers.functional import ABCFunctional
from abcfx.passes.functional import FIXED, Key, TracedFunctional, Untraceable, required_arguments, rewritten
from abcfx.plan import LayerPlan


class FunctionalModule:
    """Mixin: runs a rewritten trace of the float class's forward, one per path (see Key), made when first needed.

    _abc_name    fully qualified name of the module      _abc_layers   site name → attribute that holds its layer
    _abc_paths   Key → the rewritten function; None for a path that cannot be traced, which runs in float
    """

    _abc_name: str
    _abc_layers: dict[str, str]
    _abc_paths: dict[Key, Callable | None]
    _abc_float_class: type[nn.Module]
    _abc_arguments: tuple[tuple[str, ...], dict[str, Any]]  # names of the float forward, and the defaults among them
    training: bool

    def _abc_forward(self, *args: Any, **kwargs: Any) -> Any:
        names, defaults = self._abc_arguments
        if len(args) > len(names):
            raise TypeError(f"forward takes {len(names)} arguments, {len(args)} were given")
        given = dict(zip(names, args, strict=False)) | kwargs
        fixed = tuple(
            (k, v) for k, v in given.items() if isinstance(v, FIXED) and not (k in defaults and v is defaults[k])
        )
        traced = {k: v for k, v in given.items() if not isinstance(v, FIXED)}
        key = Key(self.training, fixed, tuple(traced))
        if key not in self._abc_paths:
            _add_path(self, key)
        path = self._abc_paths[key]
        if path is None:
            return self._abc_float_class.forward(self, *args, **kwargs)
        return path(self, *traced.values())

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_abc_paths": dict.fromkeys(self._abc_paths)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)  # type: ignore[misc]  nn.Module stands beside this class
        for key in list(self._abc_paths):
            _add_path(self, key)

    def __reduce__(self) -> tuple:
        return _new, (self._abc_float_class,), self.__getstate__()


def _arguments(float_class: type[nn.Module]) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Names of a forward's arguments, and the defaults among them."""
    parameters = list(inspect.signature(float_class.forward).parameters.values())[1:]
    named = [p for p in parameters if p.kind is not p.VAR_KEYWORD]
    return tuple(p.name for p in named), {p.name: p.default for p in named if p.default is not p.empty}


@torch._dynamo.disable(reason="a path through this forward is traced when it is first needed: call it once in eager")
def _add_path(module: Any, key: Key) -> None:
    """Trace one more path through the forward; warn and leave it in float if that is impossible."""
    try:
        module._abc_paths[key] = rewritten(module, module._abc_float_class, key, module._abc_name, module._abc_layers)
    except Untraceable as untraceable:
        module._abc_paths[key] = None
        warnings.warn(
            f"{module._abc_name or 'the model'}: called as forward({_called(key)}), its functional layers run in "
            f"float: {untraceable}",
            stacklevel=3,
        )


def _called(key: Key) -> str:
    return ", ".join([*key.traced, *(f"{name}={value!r}" for name, value in key.fixed)])


@functools.cache
def functional_class(float_class: type[nn.Module]) -> type[nn.Module]:
    """The subclass of `float_class` that runs rewritten paths; its forward keeps the signature."""

    @functools.wraps(float_class.forward)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self._abc_forward(*args, **kwargs)

    body = {"forward": forward, "_abc_float_class": float_class, "_abc_arguments": _arguments(float_class)}
    return type(f"ABC{float_class.__name__}", (FunctionalModule, float_class), body)


def _new(float_class: type[nn.Module]) -> nn.Module:
    """An empty instance, to be filled by __setstate__ (pickle, deepcopy)."""
    return functional_class(float_class).__new__(functional_class(float_class))


def build_functional(traced: TracedFunctional, plans: Mapping[str, LayerPlan]) -> nn.Module:
    """The traced module with an ABCFunctional layer for each of its sites that `plans` names.

    Parameters, buffers, children and hooks are those of the float module, which is not changed.
    """
    module, name = traced.module, traced.name
    new = _new(type(module))
    new.__dict__.update({k: dict_copy(v) for k, v in module.__dict__.items()})
    new._abc_name, new._abc_layers, new._abc_paths = name, {}, {}
    for site, _spelled, geometry, weight in traced.found:
        if site.name not in plans:
            continue
        own = site.name.removeprefix(name).lstrip(".")
        attribute = "abc_" + re.sub(r"\W", "_", own if own and own[0] != "#" else f"weight{own}")
        new._abc_layers[site.name] = attribute
        new.add_module(attribute, ABCFunctional(plans[site.name], site.name, weight, geometry))
    names = required_arguments(type(module))
    for training in (True, False):
        _add_path(new, Key(training, (), names))
    return new


def dict_copy(value: Any) -> Any:
    """Dictionaries of nn.Module (parameters, children, hooks) one level deep; anything else is shared."""
    return value.copy() if isinstance(value, dict) else value
