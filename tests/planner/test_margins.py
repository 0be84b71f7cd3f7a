"""A grid of losses from its margins."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

import abcfx
from abcfx.plan import LayerPlan
from abcfx.planner.margins import filled, margins
from abcfx.planner.planning import grid

GRID = grid()


def counts(plans: list[LayerPlan]) -> set[tuple[int, int]]:
    return {(plan.weight_bases, plan.activation_bases) for plan in plans}


def test_the_last_row_the_last_column_and_a_corner_are_measured():
    assert counts(margins(GRID)) == {(1, 1)} | {(5, k) for k in range(1, 6)} | {(k, 5) for k in range(1, 6)}


def test_kinds_are_grids_of_their_own_and_what_is_no_grid_is_measured_whole():
    greedy = [replace(plan, basis="greedy") for plan in GRID]
    loose = [LayerPlan(1, 2, per_channel=False), LayerPlan(3, 3, per_channel=False)]
    chosen = margins([*GRID, *loose, *greedy])
    assert len(chosen) == 10 + 2 + 10
    assert set(loose) <= set(chosen)


def losses_of(weights: list[float], inputs: list[float], product: float) -> dict[LayerPlan, float]:
    """Σ of what the errors of M weight and N input bases cost, and of their product."""
    return {
        plan: weights[m] + inputs[n] + product * weights[m] * inputs[n]
        for plan in GRID
        for m, n in [(plan.weight_bases - 1, plan.activation_bases - 1)]
    }


@pytest.mark.parametrize("product", [0.0, 0.5, -0.3])
def test_what_adds_up_is_found_exactly(product: float):
    """Also with a product of the two errors, as far as the most bases have none."""
    exact = losses_of([1.0, 0.3, 0.1, 0.02, 0.0], [0.8, 0.2, 0.05, 0.01, 0.0], product)
    found = filled({plan: exact[plan] for plan in margins(GRID)}, GRID)
    assert list(found) == GRID
    assert found == pytest.approx(exact)


def test_noise_makes_no_loss_negative():
    exact = losses_of([1.0, 0.3, 1e-5, 2e-5, 4e-5], [0.8, 0.2, 3e-5, 1e-5, 5e-5], 0.0)
    found = filled({plan: exact[plan] for plan in margins(GRID)}, GRID)
    assert min(found.values()) > 0


def test_a_plan_from_margins_is_like_one_of_all_candidates():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.Flatten(),
        nn.Linear(24 * 64, 32), nn.ReLU(), nn.Linear(32, 6),
    )  # fmt: skip
    images = list(torch.randn(96, 3, 8, 8).split(32))
    given = {"first_last_float": False, "samples": 64, "progress": False}
    some = abcfx.plan(model, images, {"bits": 2}, sensitivity="margins", **given)
    every = abcfx.plan(model, images, {"bits": 2}, sensitivity="estimate", **given)
    assert some.measured.setup["sensitivity"] == "margins"
    for layer, other in zip(some.measured.layers, every.measured.layers, strict=True):
        assert [o.label for o in layer.options] == [o.label for o in other.options]
        for option, exact in zip(layer.options[1:], other.options[1:], strict=True):
            assert option.loss == pytest.approx(exact.loss, rel=0.5)


def test_margins_are_the_default_where_outputs_are_large(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("abcfx.planner.planning.OUTPUTS", 1000)
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 36, 4))
    found = abcfx.plan(model, [torch.randn(20, 3, 8, 8)], {"bits": 2}, first_last_float=False, progress=False)
    assert (found.measured.setup["sensitivity"], found.measured.setup["samples"]) == ("margins", 16)
