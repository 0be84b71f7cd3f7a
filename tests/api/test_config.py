"""Config and Plan: JSON and back, and errors that name the field."""

from __future__ import annotations

import pytest
from torch import nn

import abcfx


def test_config_goes_to_json_and_back() -> None:
    config = abcfx.Config(
        M=3, N=4, basis="greedy", levels="thermometer", per_channel=False, include=["layer*"], exclude="layer9",
        overrides={"layer1.*": {"M": 5}}, first_last_float=False,
    )  # fmt: skip
    again = abcfx.Config.from_json(config.to_json())
    assert again == config
    assert again.plan_for("layer1.conv") == abcfx.LayerPlan(5, 4, "greedy", "thermometer", False)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"M": 2, "bits": 3}', "unknown config fields: bits"),
        ('{"M": 0}', "M .* must be an integer from 1 to 8, got 0"),
        ("[2, 2]", "a config is a JSON object, got list"),
        ('{"include": [3]}', "include takes globs"),
        ('{"overrides": {"a": {"K": 1}}}', "unknown keys"),
    ],
)
def test_bad_config_files(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        abcfx.Config.from_json(text)


def test_later_overrides_win() -> None:
    config = abcfx.Config(overrides={"*": {"M": 3}, "head": {"M": 1, "N": 1}})
    assert config.plan_for("head") == abcfx.LayerPlan(1, 1)
    assert config.plan_for("body") == abcfx.LayerPlan(3, 2)


def test_plan_goes_to_json_and_back() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    plan = abcfx.plan_of(abcfx.quantize_model(model, 3, 1, levels="thermometer"))
    assert abcfx.Plan.from_json(plan.to_json()) == plan
    assert set(plan.layers) == {"1"}


def test_a_config_replaces_the_single_arguments() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    q = abcfx.quantize_model(model, config=abcfx.Config(M=1, N=3, include="2"))
    assert abcfx.plan_of(q).layers == {"2": abcfx.LayerPlan(1, 3)}
