"""What the weights of a training step cost: fitting the bases of a whole network again after an optimizer step.

    ratio = time of a fit from scratch / time of the fit, all quantized layers of the network

"alternating" is timed twice: from scratch ("cold"), and from the scales of the last step ("warm", as a training step
does it, abcfx/ops/warm_start.py). "greedy" and "abc" are fitted from scratch at every step. The fit is timed alone, and
with what a step makes of it: packed bits and the dequantized weight. An optimizer step stands, untimed, in front of
each call, so that nothing is kept from the one before.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import nn

from abcfx.bench.contest import Tick
from abcfx.bench.race import Spread, run_laps
from abcfx.ops.warm_start import follow
from abcfx.ops.weight_cache import WeightRecipe, fitted, packed

# (weights of a layer, how many such layers): what quantize_model quantizes of them, all but the first and the last
NETWORKS: dict[str, tuple[tuple[tuple[int, ...], int], ...]] = {
    "resnet20": (
        ((16, 16, 3, 3), 6), ((32, 16, 3, 3), 1), ((32, 32, 3, 3), 5), ((64, 32, 3, 3), 1), ((64, 64, 3, 3), 5),
    ),
    "resnet18": (
        ((64, 64, 3, 3), 4), ((128, 64, 3, 3), 1), ((128, 128, 3, 3), 3), ((256, 128, 3, 3), 1),
        ((256, 256, 3, 3), 3), ((512, 256, 3, 3), 1), ((512, 512, 3, 3), 3),
        ((128, 64, 1, 1), 1), ((256, 128, 1, 1), 1), ((512, 256, 1, 1), 1),
    ),
}  # fmt: skip
FITS = {"cold": "alternating", "warm": "alternating", "greedy": "greedy", "abc": "abc"}
STEP = 1e-4  # of the scale of the weights: what a late training step moves them by


@dataclass(frozen=True)
class FitTime:
    """fit_ms: bases and scales; step_ms: with packing and the dequantized weight; ratio = cold / this, of step_ms."""

    M: int
    fit: str
    fit_ms: Spread
    step_ms: Spread
    ratio: Spread


@dataclass
class FitMeasurement:
    name: str
    title: str
    about: dict[str, Any]
    times: list[FitTime] = field(default_factory=list)


class Weights:
    """The weights of a network, normal as after initialization, and the optimizer that moves them."""

    def __init__(self, network: str) -> None:
        shapes = [shape for shape, count in NETWORKS[network] for _ in range(count)]
        self.parameters = [nn.Parameter(nn.init.kaiming_normal_(torch.empty(shape))) for shape in shapes]
        for parameter in self.parameters:  # as a layer that owns it would
            follow(parameter)
        self.cold = [nn.Parameter(parameter.detach().clone()) for parameter in self.parameters]  # owned by no layer
        self.optimizer = torch.optim.SGD([*self.parameters, *self.cold], lr=STEP)
        for parameter in (*self.parameters, *self.cold):
            parameter.grad = torch.randn_like(parameter) * parameter.detach().std()

    def call(self, make: Callable[[nn.Parameter, WeightRecipe], Any], bases: int, fit: str) -> Callable[[], None]:
        """`make` of every weight. A fit starts from the last one only where a layer owns the weight."""
        recipe = WeightRecipe(bases, FITS[fit], per_channel=True)
        weights = self.cold if fit == "cold" else self.parameters

        def run() -> None:
            for parameter in weights:
                make(parameter, recipe)

        return run


def measure_fit(network: str, bases: Sequence[int], seconds: float, tick: Tick) -> FitMeasurement:
    weights = Weights(network)
    count = sum(parameter.numel() for parameter in weights.parameters)
    about = {"layers": len(weights.parameters), "weights": count, "threads": torch.get_num_threads()}
    title = f"{network}, {about['layers']} layers, {count / 1e6:.2f} M weights"
    found = FitMeasurement(network, title, about)
    for m in bases:
        tick(f"M={m}")
        entrants = {}
        for fit in FITS:
            entrants[fit], entrants[f"{fit} step"] = (weights.call(make, m, fit) for make in (fitted, packed))
        entrants["warm"]()  # the first is a cold one
        before = dict.fromkeys(entrants, weights.optimizer.step)
        laps = run_laps(entrants, seconds, before=before, few=("cold", "cold step"), once=True)
        for fit in FITS:
            ratio = laps.ratio("cold step", f"{fit} step")
            found.times.append(FitTime(m, fit, laps.ms(fit), laps.ms(f"{fit} step"), ratio))
    return found


def fit_table(found: FitMeasurement) -> Group:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for header in ("M", "fit", "fit alone", "with packing", "of a cold fit", "from", "to"):
        table.add_column(header, justify="left" if header == "fit" else "right", no_wrap=True)
    for one in found.times:
        table.add_row(
            str(one.M), one.fit, f"{one.fit_ms.median:.1f} ms", f"{one.step_ms.median:.1f} ms",
            Text(f"{one.ratio.median:.1f}x", "green" if one.ratio.median > 1 else "default"),
            f"{one.ratio.low:.1f}", f"{one.ratio.high:.1f}",
        )  # fmt: skip
    note = "cold / this, both with packing: above 1 this is faster"
    return Group(Text(found.title, "bold"), table, Text(note, "dim"), Text(""))
