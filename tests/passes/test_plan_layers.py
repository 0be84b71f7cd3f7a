"""The plan stage: its docstring, the order of reasons, determinism."""

from __future__ import annotations

import doctest

import pytest
from abcfx.passes import plan_layers as stage
from abcfx.passes.plan_layers import plan_layers

from abcfx import Config, LayerPlan
from abcfx.plan import LayerSite


def sites(*names: str) -> list[LayerSite]:
    return [LayerSite(name, "linear", (8, 8)) for name in names]


def test_the_docstring_is_true() -> None:
    result = doctest.testmod(stage)
    assert result.attempted >= 5
    assert result.failed == 0


def test_first_and_last_are_those_that_could_be_quantized() -> None:
    found = [LayerSite("opaque", "linear", (8, 8), reason="no"), *sites("a", "b", "c")]
    assert set(plan_layers(found, Config()).layers) == {"b"}
    assert set(plan_layers(found, Config(first_last_float=False)).layers) == {"a", "b", "c"}
    assert set(plan_layers(found, Config(include="*")).layers) == {"a", "b", "c"}
    assert set(plan_layers(found, Config(overrides={"c": {"M": 1}})).layers) == {"b", "c"}
    assert set(plan_layers(sites("only"), Config()).layers) == {"only"}


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (Config(exclude="b*"), "excluded by 'b*'"),
        (Config(include="a"), "not in include"),
        (Config(include=["b", "c"]), "filter_fn said no"),
    ],
)
def test_reasons(config: Config, reason: str) -> None:
    plan = plan_layers(sites("a", "b", "c"), config, accept=lambda name: name != "b")
    assert plan.reasons["b"] == reason


def test_a_site_keeps_its_own_reason_first() -> None:
    plan = plan_layers([LayerSite("x", "linear", (8, 8), reason="opaque")], Config(exclude="x"))
    assert plan.reasons == {"x": "opaque"}


def test_the_same_input_gives_the_same_plan() -> None:
    found, config = sites("a", "b", "c", "d"), Config(M=4, overrides={"b": {"basis": "greedy"}})
    first, again = plan_layers(found, config), plan_layers(found, config)
    assert first == again
    assert first.layers["b"] == LayerPlan(4, 2, "greedy")
    assert first.to_json() == again.to_json()
