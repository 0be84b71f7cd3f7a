"""Measurements and a budget → the option of each layer, by the knapsack of knapsack.py.

least loss   minimize Σ loss    within speedup, latency_ms and bits
fastest      minimize Σ ms      within those, and Σ loss ≤ most_loss

The losses of single layers are added up: second-order terms between layers are left out, as in all such planners.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Context

from abcfx.planner.budget import Budget, InfeasibleBudget
from abcfx.planner.knapsack import Limit, choose
from abcfx.planner.options import FLOAT_BITS, LayerOptions, Measurements, Option


@dataclass(frozen=True)
class Solution:
    """choices  label of each layer's option        gap  proven relative distance from the optimum, 0 at it"""

    choices: Mapping[str, str]
    gap: float


def solve(
    measured: Measurements, budget: Budget, fixed: Mapping[str, str] | None = None, most_loss: float | None = None
) -> Solution:
    """The choice of least loss within the budget, or with `most_loss` the fastest whose loss is no larger.

    fixed  layer → label of an option that it has to keep

    Raises InfeasibleBudget with the nearest value that can be kept; ValueError for a fixed layer or option that is not.
    """
    layers = _with_fixed(measured, fixed or {})
    limits = _limits(measured, layers, budget)
    losses, times = _table(layers, lambda option: option.loss), _table(layers, lambda option: option.ms)
    if most_loss is None:
        found = choose(losses, list(limits.values()))
    else:
        found = choose(times, [*limits.values(), Limit(losses, most_loss)])
    if found is None:
        raise InfeasibleBudget(_nearest(measured, layers, budget, limits, losses, most_loss))
    chosen = {layer.name: layer.options[i].label for layer, i in zip(layers, found.options, strict=True)}
    return Solution(chosen, found.gap)


def mean_bits(layers: tuple[LayerOptions, ...], choices: Mapping[str, str]) -> float:
    """Of a weight, over layers that have a choice; 32 if there is none."""
    weights = sum(layer.weights for layer in layers)
    bits = sum(layer.weights * layer.option(choices[layer.name]).bits for layer in layers)
    return bits / weights if weights else float(FLOAT_BITS)


def _with_fixed(measured: Measurements, fixed: Mapping[str, str]) -> tuple[LayerOptions, ...]:
    """The layers, with the fixed option alone where one is fixed."""
    if unknown := sorted(set(fixed) - {layer.name for layer in measured.layers}):
        raise ValueError(
            f"no layer {unknown} to fix; the layers are {', '.join(layer.name for layer in measured.layers)}"
        )
    return tuple(
        LayerOptions(layer.name, layer.weights, (layer.option(fixed[layer.name]),)) if layer.name in fixed else layer
        for layer in measured.layers
    )


def _table(layers: tuple[LayerOptions, ...], value: Callable[[Option], float]) -> list[list[float]]:
    return [[value(option) for option in layer.options] for layer in layers]


def _limits(measured: Measurements, layers: tuple[LayerOptions, ...], budget: Budget) -> dict[str, Limit]:
    """Name of each linear limit in the budget → the limit."""
    times = _table(layers, lambda option: option.ms)
    found = {}
    if budget.speedup is not None:
        found["speedup"] = Limit(times, measured.float_ms / budget.speedup - measured.rest_ms)
    if budget.latency_ms is not None:
        found["latency_ms"] = Limit(times, budget.latency_ms - measured.rest_ms)
    if budget.bits is not None:
        free = {layer.name for layer in measured.free}
        bits = [[layer.weights * o.bits if layer.name in free else 0 for o in layer.options] for layer in layers]
        found["bits"] = Limit(bits, budget.bits * sum(layer.weights for layer in measured.free))
    return found


def _nearest(
    measured: Measurements, layers: tuple[LayerOptions, ...], budget: Budget, limits: Mapping[str, Limit],
    losses: list[list[float]], most_loss: float | None,
) -> str:  # fmt: skip
    """One sentence: which limit cannot be kept, and the nearest value that can, keeping the others."""

    def within(name: str) -> list[Limit]:
        return [limit for other, limit in limits.items() if other != name]

    texts = []
    for name, limit in limits.items():
        best = choose(limit.used, within(name)) if _least(limit) > limit.bound else None
        if best is None:
            continue
        least = sum(row[i] for row, i in zip(limit.used, best.options, strict=True))
        texts.append(f"{name}={getattr(budget, name):g} cannot be kept, {_nearest_value(measured, name, least)}")
    if not texts and most_loss is not None:
        texts = [f"no plan within {budget} has an estimated loss of {most_loss:g} or less"]
    if not texts:
        texts = [f"the limits {budget} cannot be kept together, though each can alone; loosen one of them"]
    return "; ".join(texts) + " (more options, e.g. fewer bases, or fewer fixed layers may reach further)"


def _least(limit: Limit) -> float:
    return sum(min(row) for row in limit.used)


def _nearest_value(measured: Measurements, name: str, least: float) -> str:
    """Rounded to the side that can be kept."""
    if name == "speedup":
        return f"the most is {_rounded(measured.float_ms / (measured.rest_ms + least), ROUND_FLOOR)}"
    value = least / sum(layer.weights for layer in measured.free) if name == "bits" else measured.rest_ms + least
    return f"the least is {_rounded(value, ROUND_CEILING)}"


def _rounded(value: float, rounding: str) -> str:
    return format(Context(prec=4, rounding=rounding).create_decimal(repr(value)), "f")
