"""Functional layers in a module's own forward, found by tracing just that module, with its children as leaves.

`trace_functional(module, name)` lists them. `rewritten` makes a function of one path through the forward that calls a
child module in the place of each chosen site (abcfx/layers/functional_module.py makes a whole module of such paths):

    child(input, weight, bias)         the weight stays registered where it was

A trace is one path through the forward. What may choose another path is part of the key under which a trace is kept:
train() or eval(), which arguments are given, and the values of those that are None, a bool or a string.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from abcfx.passes._constants import constant_view
from abcfx.passes._rule import apply_rules
from abcfx.passes.canonicalize import CANONICALIZE
from abcfx.passes.match_layers import match_layers
from torch import nn
from torch.fx import GraphModule, Node

from abcfx.graph import ConvView, attribute, clone, view
from abcfx.plan import LayerSite

FIXED = (bool, str, type(None))  # arguments that choose a path; all others are traced
TRACE_ERRORS = (
    torch.fx.proxy.TraceError,
    TypeError,
    ValueError,
    RuntimeError,
    AttributeError,
    LookupError,
    AssertionError,
    NotImplementedError,
)  # fmt: skip  what a forward may raise when it meets a proxy


_NOTHING = object()


class Untraceable(Exception):
    """A forward that cannot be traced; the text says why, and what to do."""


class Key(NamedTuple):
    """Which path: the mode, the arguments with a fixed value, and the names of those that are traced."""

    training: bool
    fixed: tuple[tuple[str, Any], ...]
    traced: tuple[str, ...]


class FunctionalSite(NamedTuple):
    """A site of one trace: the node that spells it, and what a layer in its place needs to know."""

    site: LayerSite
    spelled: str
    geometry: tuple
    weight: torch.Tensor | None


class _Tracer(torch.fx.Tracer):
    """Traces `float_class.forward` of a module; every child module is a leaf."""

    def __init__(self, float_class: type[nn.Module], key: Key) -> None:
        super().__init__(param_shapes_constant=True)
        self.float_class, self.key = float_class, key

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return True

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, Any]) -> Any:
        for name, buffer in self.root.named_buffers():
            if attr_val is buffer:  # else an operation on buffers alone would run now and be frozen
                if name not in parameter_proxy_cache:
                    parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
                return parameter_proxy_cache[name]
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list]:
        proxies = {name: self.create_proxy("placeholder", name, (), {}) for name in self.key.traced}

        def run(root: nn.Module) -> Any:
            result = self.float_class.forward(root, **dict(self.key.fixed), **proxies)
            _check_result(result)
            return result

        return run, [self.root]


def _check_result(result: Any) -> None:
    if type(result) in (tuple, list):
        for item in result:
            _check_result(item)
    elif type(result) is dict:
        _check_result(list(result.values()))
    elif not isinstance(result, (torch.fx.Proxy, torch.Tensor, int, float, str, type(None))):
        raise Untraceable(f"its forward returns a {type(result).__name__}, which a trace cannot reproduce")


@contextmanager
def _unchanged(module: nn.Module) -> Iterator[None]:
    """Put back what a forward stored on the module while it was traced, and refuse such a trace."""
    before = dict(module.__dict__)
    tables = {name: dict(table) for name, table in before.items() if isinstance(table, dict)}
    changed: set[str] = set()
    try:
        yield
    finally:
        now = module.__dict__
        changed |= {name for name in now.keys() | before.keys() if now.get(name, _NOTHING) is not before.get(name)}
        for name, table in tables.items():
            live = before[name]
            changed |= {entry for entry in live.keys() | table.keys() if live.get(entry) is not table.get(entry)}
            live.clear()
            live.update(table)
        now.clear()
        now.update(before)
    if any(name.startswith("_tensor_constant") for name in changed):
        raise Untraceable("its forward makes a tensor of its own that tracing would freeze; register it as a buffer")
    if changed:
        raise Untraceable(f"its forward stores values on the module ({', '.join(sorted(changed))})")


def trace(module: nn.Module, float_class: type[nn.Module], key: Key) -> GraphModule:
    """The graph of one path. Raises Untraceable."""
    training = module.training
    module.training = key.training
    try:
        with _unchanged(module):
            graph = _Tracer(float_class, key).trace(module)
    except TRACE_ERRORS as error:
        first_line = str(error).strip().partition("\n")[0]
        raise Untraceable(
            f"the forward of {float_class.__name__} cannot be traced ({first_line}); put the product into an nn.Linear "
            "or nn.Conv layer of its own"
        ) from error
    finally:
        module.training = training
    return GraphModule(module, graph, class_name=f"Traced{float_class.__name__}")


def sites_of(gm: GraphModule, name: str) -> list[FunctionalSite]:
    """The functional layers of a trace; their names begin with that of the module."""
    canonical = clone(gm)
    apply_rules(canonical, CANONICALIZE)
    found = []
    for site, node, _ in match_layers(canonical):
        layer = view(node)
        full = f"{name}.{site.name}" if name else site.name
        base, mark, count = full.partition("#")
        site = LayerSite(base.removesuffix(".weight") + mark + count, site.kind, site.weight, site.groups, site.reason)
        constant = constant_view(node.args[1]) if layer is not None else None
        weight = attribute(gm, str(constant.base.target)) if constant is not None else None
        # as plain lists: Dynamo does not know those of fx
        arguments = layer[3:] if isinstance(layer, ConvView) else ()
        geometry = tuple(list(a) if isinstance(a, (list, tuple)) else a for a in arguments)
        found.append(FunctionalSite(site, _spelled(node), geometry, weight))
    return found


def _spelled(node: Node) -> str:
    """Name of the node that a canonical node replaced: the one that the module's author wrote."""
    return node.meta.get("abcfx", {}).get("replaces", node.name)


def rewritten(
    module: nn.Module, float_class: type[nn.Module], key: Key, name: str, layers: Mapping[str, str]
) -> Callable:
    """The function `f(module, *traced)` of one path, calling module.<layers[site]> in the place of each site named."""
    gm = trace(module, float_class, key)
    chosen = {found.spelled: layers[found.site.name] for found in sites_of(gm, name) if found.site.name in layers}
    apply_rules(gm, CANONICALIZE, only=lambda node: node.name in chosen)
    for node in list(gm.graph.nodes):
        layer = view(node)
        if layer is None or _spelled(node) not in chosen:
            continue
        gm.add_submodule(chosen[_spelled(node)], getattr(module, chosen[_spelled(node)]))
        with gm.graph.inserting_before(node):
            new = gm.graph.call_module(chosen[_spelled(node)], (layer.input, layer.weight, layer.bias))
        node.replace_all_uses_with(new)
        gm.graph.erase_node(node)
    gm.graph.lint()
    gm.recompile()
    return type(gm).forward


def required_arguments(float_class: type[nn.Module]) -> tuple[str, ...]:
    """Names of the arguments that a call must give, in order. Raises Untraceable for a forward with *args."""
    parameters = list(inspect.signature(float_class.forward).parameters.values())[1:]
    if any(p.kind in (p.VAR_POSITIONAL, p.POSITIONAL_ONLY) for p in parameters):
        raise Untraceable(f"the forward of {float_class.__name__} takes arguments without names")
    return tuple(p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD)


class TracedFunctional(NamedTuple):
    """What tracing a module found: `sites` of its own forward (not of its children); `found` with their weights."""

    module: nn.Module
    name: str
    found: tuple[FunctionalSite, ...]
    reason: str | None

    @property
    def sites(self) -> list[LayerSite]:
        """Every functional layer; or one site with the reason, if the forward cannot be traced."""
        if self.reason is not None:
            return [LayerSite(self.name, "functional", (), reason=self.reason)]
        return [found.site for found in self.found]


def trace_functional(module: nn.Module, name: str = "") -> TracedFunctional:
    """Find the functional layers of `module`'s own forward. `name`: its fully qualified name in the model."""
    found: dict[str, FunctionalSite] = {}
    try:
        names = required_arguments(type(module))
        for training in (True, False):
            for site in sites_of(trace(module, type(module), Key(training, (), names)), name):
                found.setdefault(site.site.name, site)
    except Untraceable as untraceable:
        return TracedFunctional(module, name, (), str(untraceable))
    return TracedFunctional(module, name, tuple(found.values()), None)
