"""What the options of the training scripts become."""

from __future__ import annotations

import argparse

import pytest

from abcfx.config import Config
from abcfx.train import options


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
