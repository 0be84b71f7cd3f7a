"""`python -m abcfx summary MODEL`: what quantization does to each layer, before any training."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from torch import nn

import abcfx
from abcfx.cli.front import UsageError, one_line, usage_errors
from abcfx.cli.models import MODEL_HELP, example_input, load_model
from abcfx.layers import ABCLayer
from abcfx.plan import BASES, LEVELS
from abcfx.summary import Summary

HELP = "Show, layer by layer, what a model becomes: bases, MACs, bytes, and why a layer stays float."
EXAMPLE = "python -m abcfx summary torchvision.models:resnet18 --M 3 --N 3 --exclude '*.downsample.*'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument(
        "--input", action="append", metavar="SHAPE",
        help="shape of an input, e.g. 1,3,224,224 (the default) or 1,128:int64; repeat it for several inputs",
    )  # fmt: skip
    parser.add_argument("--M", type=int, default=2, help="weight bases, 1 to 8 (2)")
    parser.add_argument("--N", type=int, default=2, help="activation bases, 1 to 8 (2)")
    parser.add_argument("--basis", choices=BASES, default=BASES[0], help=f"how weight bases are fitted ({BASES[0]})")
    parser.add_argument("--levels", choices=LEVELS, default=LEVELS[0], help=f"activation levels ({LEVELS[0]})")
    parser.add_argument("--include", action="append", default=[], metavar="GLOB", help="quantize only these layers")
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="leave these layers in float")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--unsafe-load", action="store_true",
        help="read a pickled module, which runs the code in the file (torch.load with weights_only=False)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    model = load_model(arguments.model, arguments.unsafe_load)
    summary = describe(model, arguments)
    if arguments.json:
        print(json.dumps(summary.to_dict(), indent=2))
    else:
        Console().print(summary)
    return 0


def describe(model: nn.Module, arguments: argparse.Namespace) -> Summary:
    """The summary of a model quantized as the options say; one that is quantized already is shown as it is."""
    model, shapes = quantized(model, arguments), input_shapes(arguments)
    inputs: list[Any] = [example_input(text) for text in shapes]
    with model_errors(arguments.model, shapes):
        return abcfx.summary(model, *inputs)


def quantized(model: nn.Module, arguments: argparse.Namespace) -> nn.Module:
    """The model quantized as the options say; itself if it is quantized already."""
    if any(isinstance(module, ABCLayer) for module in model.modules()):
        return model
    with usage_errors():
        return abcfx.quantize_model(
            model, arguments.M, arguments.N, basis=arguments.basis, levels=arguments.levels,
            include=arguments.include, exclude=arguments.exclude,
        )  # fmt: skip


def input_shapes(arguments: argparse.Namespace) -> list[str]:
    return arguments.input or ["1,1,28,28" if arguments.model == "demo" else "1,3,224,224"]


@contextmanager
def model_errors(name: str, shapes: list[str]) -> Iterator[None]:
    """What a model raises on an input that is not for it, as one sentence."""
    try:
        yield
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError, KeyError, AssertionError) as error:
        tried = f"{name} failed on an input of {' and '.join(shapes)}"
        raise UsageError(f"{tried}: {one_line(error)}; give its input with --input") from error
