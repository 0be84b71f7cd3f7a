"""Milliseconds of each layer: as it was, in the form that was chosen, and that form's parts; timed in turns.

float     the float layer on the input that it gets              dense   one float op, and a pass for the quantizer
pack      values → bit planes      product   everything in the kernel, its scales and epilogue too      rest   after it

A layer on bits is timed on the very nodes of the lowered graph, fused or not, with the tensors they get there. Its
parts are called one by one; in a compiled model inductor joins the rest with what follows.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node

from abcfx.autotune import race
from abcfx.explain.bits import BitGraph
from abcfx.explain.capture import Captured
from abcfx.explain.sqnr import Calls, layers_of
from abcfx.layers import ABCLayer
from abcfx.layers.functional import ABCFunctional
from abcfx.ops.candidates import float_op, fused_dense
from abcfx.ops.weight_cache import dequantized
from abcfx.ops.workload import Workload
from abcfx.packed import recipe_of
from abcfx.summary import watched

Call = Callable[[], object]
PARTS = ("pack", "product", "rest")


@dataclass(frozen=True)
class LayerTime:
    """Milliseconds over all calls of a layer in one run of the model; None for what it does not have."""

    float_ms: float | None = None
    dense_ms: float | None = None
    pack_ms: float | None = None
    product_ms: float | None = None
    rest_ms: float | None = None

    @property
    def ms(self) -> float | None:
        """Of the form that runs."""
        if self.product_ms is not None:
            return self.product_ms + (self.pack_ms or 0.0) + (self.rest_ms or 0.0)
        return self.dense_ms if self.dense_ms is not None else self.float_ms


@torch.no_grad()
def time_layers(
    model: nn.Module,
    seen: Mapping[str, Calls],
    graphs: Sequence[Captured],
    work: Mapping[str, Workload],
    dense: Collection[str],
) -> dict[str, LayerTime]:
    """Times of every layer that ran. `work`: where it is known; `dense`: the layers that run as one dense op."""
    kernels = _kernel_calls(graphs)
    times: dict[str, LayerTime] = {}
    with watched(model, {}):
        for name, layer in layers_of(model).items():
            if name not in seen:
                continue
            known = work.get(name)
            calls = {"float": _all([_float(layer, known, inputs) for inputs in seen[name].inputs])}
            if known is not None and name in dense:
                calls["dense"] = _all([_dense(layer, known, inputs) for inputs in seen[name].inputs])
            calls |= kernels.get(name, {})
            times[name] = LayerTime(**{f"{part}_ms": ms for part, ms in race(calls).items()})
    return times


def _all(calls: Sequence[Call]) -> Call:
    def run() -> None:
        for call in calls:
            call()

    return run


def _call(function: Callable[..., object], args: tuple, kwargs: Mapping[str, Any] | None = None) -> Call:
    return lambda: function(*args, **(kwargs or {}))


def _float(layer: nn.Module, work: Workload | None, inputs: tuple) -> Call:
    """The op alone where it is known, as for the other forms; else a call of the module."""
    if work is None:
        return _call(layer, inputs)
    if isinstance(layer, ABCFunctional):
        return float_op(work, *inputs)
    return float_op(work, inputs[0], layer.weight, layer.bias)


def _dense(layer: ABCLayer, workload: Workload, inputs: tuple) -> Call:
    x, weight = inputs[0], inputs[1] if isinstance(layer, ABCFunctional) else layer.weight
    return fused_dense(workload, x, dequantized(weight, recipe_of(layer)))


def _kernel_calls(graphs: Sequence[Captured]) -> dict[str, dict[str, Call]]:
    """layer → part → a call of all its nodes, with the tensors that they got."""
    calls: dict[str, dict[str, list[Call]]] = {}
    for graph in graphs:
        layers = BitGraph(graph.after, graph.lowered).layers
        part_of = {
            node: (name, part) for name, nodes in layers.items() for part in PARTS for node in getattr(nodes, part)
        }
        keeper = _Keeper(graph.after, part_of)
        keeper.run(*graph.inputs)
        for node, (name, part) in part_of.items():
            calls.setdefault(name, {}).setdefault(part, []).append(keeper.calls[node])
    return {name: {part: _all(some) for part, some in parts.items()} for name, parts in calls.items()}


class _Keeper(Interpreter):
    """Runs a graph and keeps the calls of some of its nodes."""

    def __init__(self, gm: torch.fx.GraphModule, wanted: Mapping[Node, Any]) -> None:
        super().__init__(gm)
        self.wanted, self.calls = wanted, dict[Node, Call]()

    def run_node(self, n: Node) -> Any:
        if n in self.wanted:
            args, kwargs = self.fetch_args_kwargs_from_env(n)
            self.calls[n] = _call(n.target, tuple(_kept(a) for a in args), kwargs)
        return super().run_node(n)


def _kept(argument: Any) -> Any:
    return argument.detach() if isinstance(argument, Tensor) else argument
