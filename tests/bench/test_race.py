"""Races: every entrant takes every place, slow ones sit rounds out, ratios are of the same round."""

from __future__ import annotations

from itertools import islice

import pytest

from abcfx.bench.race import FEW_ROUNDS, MIN_ROUNDS, Laps, Spread, _orders, run_laps


def test_spread_is_the_median_and_the_middle_80_percent():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0, 3)
    assert Spread.of([float(v) for v in range(20, 0, -1)]) == Spread(10.5, 3.0, 18.0, 20)
    assert Spread.of([2.0, 4.0]).times(0.5) == Spread(1.5, 1.0, 2.0, 2)


def test_every_entrant_takes_every_place_and_follows_either_neighbour():
    names = ["a", "b", "c"]
    rounds = list(islice(_orders(names), 6))
    for place in range(3):
        assert sorted(order[place] for order in rounds) == ["a", "a", "b", "b", "c", "c"]
    followed = {(order[i], order[i + 1]) for order in rounds for i in range(2)}
    assert followed == {(x, y) for x in names for y in names if x != y}


def test_ratios_are_of_rounds_where_both_ran():
    laps = Laps({"rival": [4.0, None, 9.0], "ours": [2.0, 100.0, 3.0]})
    assert laps.ratio("rival", "ours") == Spread(2.5, 2.0, 3.0, 2)
    assert laps.ms("rival").rounds == 2


def test_slow_entrants_run_in_the_first_rounds_only():
    called = []
    laps = run_laps({"slow": lambda: called.append("slow"), "other": lambda: None}, 0.01, few=["slow"])
    assert len(called) == FEW_ROUNDS
    assert laps.ms("slow").rounds == FEW_ROUNDS
    assert laps.ms("other").rounds >= MIN_ROUNDS
    assert len(laps.seconds["slow"]) == len(laps.seconds["other"])


def test_what_comes_before_a_turn_is_called_and_not_timed():
    order: list[str] = []
    run_laps({"one": lambda: order.append("call")}, 0.001, few=["one"], before={"one": lambda: order.append("before")})
    assert order[-2:] == ["before", "call"]


def test_an_interrupt_goes_through():
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_laps({"one": stop}, 0.01)
