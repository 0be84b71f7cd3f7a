"""Activation levels of float models compiled directly: fitted on the first batches, then frozen.

`torch.compile(float_model, backend="abc", options={"M": 2, "N": 2})` has no quantized layers to hold them, so they hang
on the weight of each layer. Recompiles (another shape, another grad mode) find them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils.weak import WeakIdKeyDictionary

from abcfx.calibrate import Sampler
from abcfx.graph import clone
from abcfx.ops import level_fit
from abcfx.passes.match_layers import match_layers
from abcfx.plan import LayerPlan


@dataclass
class SiteLevels:
    """Levels of one layer of a compiled float model; scale and shift are NaN until `fit`.

    trained   whether a training graph ran the layer quantized: its weights then fit the quantized layer, not the float
    """

    name: str
    plan: LayerPlan
    device: torch.device
    sampler: Sampler = field(default_factory=Sampler)
    batches: int = 0
    trained: bool = False

    def __post_init__(self) -> None:
        values = self.plan.activation_bases if self.plan.levels == "thermometer" else 1
        self.scale, self.shift = (torch.full((values,), torch.nan, device=self.device) for _ in range(2))

    def observe(self, input: Tensor) -> None:
        self.sampler.observe(self.name, input)

    def fit(self) -> None:
        samples = self.sampler.samples()
        if samples.numel():
            scale, shift = level_fit.fit(samples, self.plan.activation_bases, self.plan.levels)
            self.scale, self.shift = scale.to(self.device), shift.to(self.device)
            self.batches += 1


_of_weight: WeakIdKeyDictionary = WeakIdKeyDictionary()


def levels_of(weight: Tensor, use: int, name: str, plan: LayerPlan) -> SiteLevels:
    """The levels of the `use`-th layer that multiplies by `weight` under this plan."""
    uses = _of_weight.get(weight)
    if uses is None:
        uses = _of_weight[weight] = {}
    return uses.setdefault((use, plan), SiteLevels(name, plan, weight.device))


def was_trained(weight: Tensor, use: int, plan: LayerPlan) -> bool:
    """Whether a training graph ran that layer quantized before."""
    levels = _of_weight.get(weight, {}).get((use, plan))
    return levels is not None and levels.trained


class _Observer(nn.Module):
    def __init__(self, levels: SiteLevels) -> None:
        super().__init__()
        self.levels = levels

    def forward(self, input: Tensor) -> None:
        self.levels.observe(input)


class ObservedGraph:
    """A float graph that shows the input of each planned layer to its levels.

    Buffers and inputs are cloned, so what the graph writes in place (batch-norm statistics) is not written twice.
    """

    def __init__(self, gm: fx.GraphModule, levels: dict[str, SiteLevels]) -> None:
        self.gm, self.levels = clone(gm), list(levels.values())
        for i, (site, node, owner) in enumerate(match_layers(self.gm)):
            if site.name in levels:
                owner.add_submodule(f"abcfx_observer_{i}", _Observer(levels[site.name]))
                with owner.graph.inserting_before(node):
                    owner.graph.call_module(f"abcfx_observer_{i}", (node.args[0],))
                owner.recompile()

    def run(self, args: Iterable[Any]) -> None:
        cloned = [a.detach().clone() if isinstance(a, Tensor) and not isinstance(a, nn.Parameter) else a for a in args]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.gm(*cloned)
        for levels in self.levels:
            levels.fit()
