"""The knapsack against brute force, its limits, and that it is the same every time."""

from __future__ import annotations

import ctypes
import os
from itertools import product

import numpy as np
import pytest
from scipy.optimize import milp

from abcfx.planner.knapsack import Limit, choose, total


def brute_force(cost: list[list[float]], limits: list[Limit]) -> float | None:
    """The least cost of any choice within the limits, by trying all."""
    choices = product(*(range(len(row)) for row in cost))
    kept = [c for c in choices if all(total(limit.used, c) <= limit.bound * (1 + 1e-12) for limit in limits)]
    return min((total(cost, c) for c in kept), default=None)


def problem(seed: int, layers: int = 5) -> tuple[list[list[float]], list[list[float]], list[list[float]]]:
    """Costs, times and bits: rows of different lengths, costs over six decades as losses are."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, layers)
    costs = [list(10.0 ** rng.uniform(-6, 0, n)) for n in sizes]
    return costs, [list(rng.uniform(0.1, 2, n)) for n in sizes], [list(rng.integers(1, 33, n) * 1000.0) for n in sizes]


@pytest.mark.parametrize("seed", range(25))
def test_it_finds_what_brute_force_finds(seed: int):
    cost, times, bits = problem(seed)
    tight = 0.4 * sum(map(max, times)) + 0.6 * sum(map(min, times))
    for limits in ([Limit(times, tight)], [Limit(times, tight), Limit(bits, 0.5 * sum(map(max, bits)))]):
        best, found = brute_force(cost, limits), choose(cost, limits)
        if best is None:
            assert found is None
            continue
        assert total(cost, found.options) == pytest.approx(best, rel=1e-9)
        assert all(total(limit.used, found.options) <= limit.bound * (1 + 1e-6) for limit in limits)
        assert found.gap == 0


def test_an_option_that_uses_exactly_the_bound_fits():
    times = [[0.1, 1.0], [0.2, 1.0]]
    assert choose([[1.0, 0.0], [1.0, 0.0]], [Limit(times, 0.1 + 0.2)]).options == (0, 0)


def test_no_choice_within_the_limit():
    assert choose([[1.0, 0.0]], [Limit([[2.0, 3.0]], 1.0)]) is None
    assert choose([[1.0], [1.0]], [Limit([[2.0], [3.0]], -1.0)]) is None


def test_small_costs_count_as_large_ones_do():
    cost, times, _ = problem(3)
    tight = 0.4 * sum(map(max, times)) + 0.6 * sum(map(min, times))
    tiny = [[value * 1e-12 for value in row] for row in cost]
    assert choose(tiny, [Limit(times, tight)]).options == choose(cost, [Limit(times, tight)]).options


def test_a_network_of_50_layers_is_the_same_every_time_and_proven():
    rng = np.random.default_rng(0)
    losses = [sorted(10.0 ** rng.uniform(-6, -1, 26), reverse=True) for _ in range(50)]
    times = [sorted(rng.uniform(0.1, 2, 26)) for _ in range(50)]
    limits = [Limit(times, 0.3 * sum(map(max, times)))]
    first, second = choose(losses, limits), choose(losses, limits)
    assert first == second
    assert first.gap <= 1e-6


@pytest.mark.skipif(os.name != "posix", reason="stdout of C code is left alone")
def test_what_the_solver_prints_is_not_seen(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    def noisy(*arguments: object, **options: object) -> object:
        ctypes.CDLL(None).puts(b"a line for developers")  # as scipy 1.17 does for some networks
        return milp(*arguments, **options)

    monkeypatch.setattr("scipy.optimize.milp", noisy)
    cost, used, _ = problem(3)
    assert choose(cost, [Limit(used, sum(map(max, used)))]) is not None
    print("after")
    assert capfd.readouterr() == ("after\n", "")
