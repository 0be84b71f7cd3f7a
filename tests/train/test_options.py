"""What the options of the training scripts become."""

from __future__ import annotations

import argparse

import pytest
from torch.distributed.run import get_args_parser

from abcfx.config import Config
from abcfx.train import options
from abcfx.train.distributed import ALONE
from abcfx.train.recipe import Recipe


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    options.add_model_options(parser)
    return parser.parse_args(arguments)


@pytest.mark.parametrize(
    ("arguments", "config"),
    [
        ("", Config(2, 2)),
        ("-M 1 -N 3 --grad-bases 4", Config(1, 3, grad_bases=4)),
        ("-M 5 -N 3 --basis abc --levels thermometer --per-layer --ste abc",
         Config(5, 3, "abc", "thermometer", False, ste="abc")),
    ],
)  # fmt: skip
def test_every_option_reaches_the_configuration(arguments: str, config: Config) -> None:
    assert options.make_config(parsed(*arguments.split())) == config


def test_torchrun_takes_no_option_of_the_scripts_for_its_own() -> None:
    """It looks at all of them, and stops where one could be short for several of its own, as --start was."""
    parser = argparse.ArgumentParser()
    options.add_model_options(parser)
    options.add_recipe_options(parser, 1, "crop")
    options.add_run_options(parser, "out")
    ours = {name for action in parser._actions for name in action.option_strings if name.startswith("--")}
    theirs = {name for action in get_args_parser()._actions for name in action.option_strings}
    assert len(ours) > 30
    assert [(name, other) for name in ours - theirs for other in theirs if other.startswith(name)] == []


def test_the_recipe_is_what_was_asked_for() -> None:
    parser = argparse.ArgumentParser()
    options.add_recipe_options(parser, 7, "crop")
    arguments = (
        "--optimizer adamw --lr 0.002 --warmup 0.1 --follow-blocks 3 --temperature 4 --products bf16 --weight-rate 6 "
        "--schedule exponential"
    ).split()
    recipe = options.make_recipe(parser.parse_args(arguments))
    wanted = {"optimizer": "adamw", "warmup": 0.1, "follow_blocks": 3.0, "temperature": 4.0, "products": "bf16"}
    wanted |= {"weight_rate": 6.0, "schedule": "exponential"}
    assert recipe == Recipe(7, 0.002, weight_decay=1e-4, **wanted)


def test_a_simulated_step_is_a_compiled_one() -> None:
    parser = argparse.ArgumentParser()
    options.add_model_options(parser)
    options.add_recipe_options(parser, 7, "crop")
    options.add_run_options(parser, "out")
    with pytest.raises(ValueError, match="--simulate is a way to compile a training step: give --compile too"):
        options.make_run(parser.parse_args(["--simulate"]), ALONE)
    assert options.make_run(parser.parse_args(["--simulate", "--compile"]), ALONE).simulate
