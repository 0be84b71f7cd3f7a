"""`python -m abcfx explain MODEL`: what became of each layer and why, what it costs and what it loses."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

import abcfx
from abcfx.cli import summary as summary_command
from abcfx.cli.front import UsageError, usage_errors
from abcfx.cli.models import example_input, load_model
from abcfx.explain.report import Explanation
from abcfx.layers import ABCLayer

HELP = (
    "Explain, layer by layer, what ran and why, its predicted and measured time, and its error; --html writes a page."
)
EXAMPLE = "python -m abcfx explain torchvision.models:resnet18 --M 2 --N 2 --html resnet18.html"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    summary_command.add_arguments(parser)
    parser.add_argument("--html", metavar="FILE", type=Path, help="write one self-contained page with graphs and table")
    parser.add_argument("--plan", metavar="PLAN.json", help="quantize as this plan of `abcfx plan --save` says")
    parser.add_argument(
        "--min-speedup", type=float, metavar="X",
        help="keep in float each layer that is not X times as fast as in float, measured (or predicted: --no-measure)",
    )  # fmt: skip
    parser.add_argument("--no-measure", action="store_true", help="predictions only, nothing is timed")


def run(arguments: argparse.Namespace) -> int:
    model = load_model(arguments.model, arguments.unsafe_load)
    explanation = explained(model, arguments)
    if arguments.html is not None:
        with usage_errors(f"--html {arguments.html}: "):
            explanation.save_html(arguments.html)
    if arguments.json:
        print(json.dumps(explanation.to_dict(), indent=2))
    else:
        Console().print(explanation)
        if arguments.html is not None:
            print(f"wrote {arguments.html}")
    return 0


def explained(model: nn.Module, arguments: argparse.Namespace) -> Explanation:
    """Of a model quantized as the options say and calibrated on the example input; or of one that is already."""
    shapes = summary_command.input_shapes(arguments)
    inputs: list[Any] = [example_input(text) for text in shapes]
    planned, how = _plan(arguments.plan), {"measure": not arguments.no_measure}
    given = any(isinstance(module, ABCLayer) for module in model.modules())
    if given and arguments.min_speedup is not None:
        raise UsageError("--min-speedup needs the float model; this one is quantized already")
    with summary_command.model_errors(arguments.model, shapes):
        if planned is None:
            quantized = summary_command.quantized(model, arguments)
        else:
            with usage_errors(f"--plan {arguments.plan}: "):
                quantized = abcfx.quantize_model(model, plan=planned)
        found = abcfx.explain(_calibrated(quantized, inputs), *inputs, plan=planned, **how)
        if arguments.min_speedup is None:
            return found
        faster = found.faster_plan(abcfx.plan_of(quantized), arguments.min_speedup)
        kept = abcfx.quantize_model(model, plan=faster)
        return abcfx.explain(_calibrated(kept, inputs), *inputs, plan=planned, **how)


def _calibrated(model: nn.Module, inputs: list[Any]) -> nn.Module:
    """On the example input, if it has no levels yet."""
    if any(isinstance(module, ABCLayer) and not module.calibrated for module in model.modules()):
        abcfx.calibrate(model, [inputs[0] if len(inputs) == 1 else tuple(inputs)], progress=False)
    return model


def _plan(path: str | None) -> abcfx.BudgetPlan | None:
    if path is None:
        return None
    with usage_errors(f"--plan {path}: "):
        return abcfx.BudgetPlan.load(path)
