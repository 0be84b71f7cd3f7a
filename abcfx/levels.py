"""Activation levels of float models compiled directly: fitted on the first batches, then frozen.

`torch.compile(float_model, backend="abc", options={"M": 2, "N": 2})` has no quantized layers to hold them, so they hang on
the weight of each layer. Recompiles (another shape, another grad mode) find them again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils.weak import WeakIdKeyDictionary

from abcfx.calibrate import Sampler
from abcfx.plan import LayerPlan
from abcfx.quant import activations


@dataclass
class SiteLevels:
    """Levels of one layer of a compiled float model; scale and shift are NaN until `fit`."""

    name: str
    plan: LayerPlan
    sampler: Sampler = field(default_factory=Sampler)
    batches: int = 0

    def __post_init__(self) -> None:
        values = self.plan.activation_bases if self.plan.levels == "thermometer" else 1
        self.scale, self.shift = torch.full((values,), torch.nan), torch.full((values,), torch.nan)

    def observe(self, input: Tensor) -> None:
        self.sampler.observe(self.name, input)

    def fit(self) -> None:
        samples = self.sampler.samples()
        if samples.numel():
            self.scale, self.shift = activations.fit(samples, self.plan.activation_bases, self.plan.levels)
            self.batches += 1


_of_weight: WeakIdKeyDictionary = WeakIdKeyDictionary()


def levels_of(weight: Tensor, use: int, name: str, plan: LayerPlan) -> SiteLevels:
    """The levels of the `use`-th layer that multiplies by `weight` under this plan."""
    uses = _of_weight.get(weight)
    if uses is None:
        uses = _of_weight[weight] = {}
    return uses.setdefault((use, plan), SiteLevels(name, plan))


class Observe(fx.Interpreter):
    """Runs a float graph and shows the input of each quantized layer to its levels.

    Buffers and inputs are cloned, so nothing the graph writes in place (batch-norm statistics) is written twice.
    """

    def __init__(self, gm: fx.GraphModule, levels: dict[str, SiteLevels]) -> None:
        super().__init__(gm)
        self.levels = levels  # node name → levels

    def run_node(self, n: fx.Node) -> Any:
        if n.name in self.levels:
            args, _ = self.fetch_args_kwargs_from_env(n)
            self.levels[n.name].observe(args[0])
        return super().run_node(n)

    def observe(self, args: Iterable[Any]) -> None:
        cloned = [a.detach().clone() if isinstance(a, Tensor) and not isinstance(a, torch.nn.Parameter) else a for a in args]
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self.run(*cloned)
        for levels in self.levels.values():
            levels.fit()
