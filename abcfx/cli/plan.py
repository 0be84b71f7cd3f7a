"""`python -m abcfx plan MODEL`: M, N or float for each layer, for a budget."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import abcfx
from abcfx import data
from abcfx.cli.demo_model import DemoNet, load_demo_model
from abcfx.cli.front import UsageError, one_line, positive, usage_errors
from abcfx.cli.models import MODEL_HELP, example_input, load_model
from abcfx.cli.plan_table import plan_table, verdict
from abcfx.plan import BASES, LEVELS, LayerPlan
from abcfx.planner import BudgetPlan
from abcfx.planner.costs import COSTS
from abcfx.planner.picture import draw
from abcfx.planner.planning import SENSITIVITIES, grid

HELP = "Choose M, N or float for each layer within a budget of time, weight bits or accuracy."
EXAMPLE = (
    "python -m abcfx plan demo --speedup 2 --save plan.json --picture pareto.png\n"
    "  python -m abcfx plan demo --from plan.json --bits 2.5"
)
BATCH = 64


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    budget = parser.add_argument_group("budget (one or several)")
    budget.add_argument(
        "--speedup", type=float, help="predicted time of the float model over that of the plan, at least"
    )
    budget.add_argument("--latency-ms", type=float, help="predicted time of the plan, at most")
    budget.add_argument("--bits", type=float, help="mean bits of a weight over the layers that have a choice, at most")
    budget.add_argument("--accuracy-drop", type=float, help="points lost on held-out images, at most; measured")
    parser.add_argument(
        "--data", metavar="PATH",
        help="calibration images: a folder of CIFAR-10 or Fashion-MNIST, a .npz, or a .pt of inputs (not for the demo)",
    )  # fmt: skip
    parser.add_argument(
        "--input", metavar="SHAPE", help="input whose time counts, e.g. 8,3,224,224 (one sample of the data)"
    )
    parser.add_argument("--images", type=positive, default=512, help="calibration samples (512)")
    parser.add_argument(
        "--samples", type=positive,
        help="of them, those that sensitivity is measured on (128, or down to 16 for large images)",
    )
    parser.add_argument("--basis", choices=BASES, default=BASES[0], help=f"how weight bases are fitted ({BASES[0]})")
    parser.add_argument("--levels", choices=LEVELS, default=LEVELS[0], help=f"activation levels ({LEVELS[0]})")
    parser.add_argument(
        "--include", action="append", default=[], metavar="GLOB", help="only these layers have a choice"
    )
    parser.add_argument("--exclude", action="append", default=[], metavar="GLOB", help="these layers stay float")
    parser.add_argument("--fix", action="append", default=[], metavar="LAYER=LABEL", help="e.g. fc=float or conv1=3x3")
    parser.add_argument(
        "--sensitivity", choices=SENSITIVITIES, help="(estimate, or margins where the outputs of the layers are large)"
    )
    parser.add_argument(
        "--cost", choices=COSTS, default=COSTS[0], help="times from the cost model or this machine (predicted)"
    )
    parser.add_argument(
        "--from", dest="start", metavar="PLAN.json", help="solve a saved plan again; no layer is measured"
    )
    parser.add_argument("--save", metavar="PLAN.json", help="write the plan and all that was measured")
    parser.add_argument("--picture", metavar="FILE", help="write the Pareto picture, .png or .svg")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--unsafe-load", action="store_true", help="read a pickled module, which runs the code in it")


def run(arguments: argparse.Namespace) -> int:
    planned = make_plan(arguments)
    with usage_errors():
        if arguments.save:
            planned.save(arguments.save)
        if arguments.picture:
            draw(planned, arguments.picture)
    if arguments.json:
        print(planned.to_json())
        return 0
    console = Console()
    console.print(plan_table(planned))
    console.print(verdict(planned))
    return 0


def make_plan(arguments: argparse.Namespace) -> BudgetPlan:
    """The plan that the options ask for; UsageError in one sentence if there is none."""
    names = ("speedup", "latency_ms", "bits", "accuracy_drop")
    budget = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if not budget:
        raise UsageError("give a budget: --speedup 2, --latency-ms 3.5, --bits 2.5 or --accuracy-drop 1")
    with usage_errors(f"{arguments.start}: " if arguments.start else ""):
        start = BudgetPlan.load(arguments.start) if arguments.start else None
    if start is not None and arguments.accuracy_drop is None and not arguments.fix:
        with usage_errors():
            return start.solve(budget)
    demo = arguments.model == "demo"  # here with its trained weights: sensitivity is one of the trained model
    model = load_demo_model() if demo else load_model(arguments.model, arguments.unsafe_load)
    with usage_errors():
        batches = calibration_batches(arguments, model)
    fixed = dict(_pair(text) for text in arguments.fix)
    with usage_errors(), _model_errors(arguments.model):
        return abcfx.plan(
            model, batches, budget, measured=start, fixed=fixed,
            candidates=grid(LayerPlan(basis=arguments.basis, levels=arguments.levels)),
            include=arguments.include, exclude=arguments.exclude, sensitivity=arguments.sensitivity,
            cost=arguments.cost, samples=arguments.samples,
            example=example_input(arguments.input) if arguments.input else None,
        )  # fmt: skip


@contextmanager
def _model_errors(name: str) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, AttributeError, IndexError) as error:
        raise UsageError(f"{name} failed on the calibration data: {one_line(error)}; look at --data") from error


def _pair(text: str) -> tuple[str, str]:
    name, found, label = text.partition("=")
    if not found:
        raise UsageError(f"--fix {text}: give LAYER=LABEL, e.g. fc=float or conv1=3x3")
    return name, label


def calibration_batches(arguments: argparse.Namespace, model: nn.Module) -> list[Any]:
    """Batches of (inputs, classes), or of inputs, from --data or of the demo."""
    path = arguments.data
    if path is None and not isinstance(model, DemoNet):
        raise ValueError("calibration data is needed: --data with a folder of images, or a .npz or .pt of inputs")
    if path is not None and Path(path).suffix == ".pt":
        return _split(torch.load(path, weights_only=True), None, arguments.images, lambda x: x)
    images = data.load(path)
    return _split(images.train_x, images.train_y, arguments.images, images.prepare)


def _split(inputs: Any, labels: Tensor | None, count: int, prepare: Callable[[Tensor], Tensor]) -> list[Any]:
    if not isinstance(inputs, Tensor) or not len(inputs):
        raise ValueError(f"a .pt file of calibration data holds one tensor of inputs, got {type(inputs).__name__}")
    inputs = inputs[:count]
    size = min(BATCH, -(-len(inputs) // 2))  # two batches at least: one of them may be held out
    parts = [prepare(part) for part in inputs.split(size)]
    return parts if labels is None else list(zip(parts, labels[:count].split(size), strict=True))
