"""Latency of a whole model: abcfx against the same float model, both compiled, timed in turns in one process.

    python examples/model_latency.py torchvision.models:resnet18 --input 1,3,224,224 --bases 1,1 2,2 3,3

Weights are what the callable gives (random ones do: speed does not depend on them). Activations are calibrated on the
input. Packing is part of the time. The float rival is torch.compile in f32, channels last for images.
"""

from __future__ import annotations

import argparse
import sys
import warnings

import torch
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import nn

import abcfx
from abcfx.bench.race import Race, race
from abcfx.cli.front import UsageError, usage_errors
from abcfx.cli.machine import kernel_names, threads
from abcfx.cli.models import MODEL_HELP, example_input, load_model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=MODEL_HELP)
    parser.add_argument("--input", default="1,3,224,224", help="shape of the input (1,3,224,224)")
    parser.add_argument("--bases", nargs="+", default=["1,1", "2,2", "3,3"], metavar="M,N", help="pairs (1,1 2,2 3,3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="to time each pair for (5)")
    parser.add_argument("--threads", type=int, help="threads of PyTorch (as it has them)")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        with usage_errors():
            pairs = [tuple(int(value) for value in pair.split(",")) for pair in arguments.bases]
            plans = [abcfx.LayerPlan(*pair) for pair in pairs]
        model, x = load_model(arguments.model), example_input(arguments.input)
    except UsageError as error:
        print(f"model_latency: {error}", file=sys.stderr)
        return 2
    if x.dim() == 4:
        model, x = model.to(memory_format=torch.channels_last), x.to(memory_format=torch.channels_last)
    # drawn by a thread of its own, the bar would disturb the timing
    bar = track(plans, "timing", transient=True, auto_refresh=False)
    show(arguments.model, x, [(plan, compare(model, x, plan, arguments.seconds)) for plan in bar])
    return 0


def compare(model: nn.Module, x: torch.Tensor, plan: abcfx.LayerPlan, seconds: float) -> Race:
    torch._dynamo.reset()
    quantized = abcfx.calibrate(
        abcfx.quantize_model(model, plan.weight_bases, plan.activation_bases), [x], progress=False
    )
    rival, ours = torch.compile(model), torch.compile(quantized, backend="abc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        with torch.inference_mode():
            for _ in range(3):
                rival(x), ours(x)
            return race(lambda: rival(x), lambda: ours(x), x.shape[0], seconds)


def show(name: str, x: torch.Tensor, races: list[tuple[abcfx.LayerPlan, Race]]) -> None:
    table = Table(title=f"{name}, input {list(x.shape)}: compiled abc against compiled f32")
    for column in ("M, N", "f32 ms", "abc ms", "f32 / abc", "middle 80 %", "rounds"):
        table.add_column(column, justify="right")
    for plan, r in races:
        table.add_row(
            f"{plan.weight_bases}, {plan.activation_bases}", f"{r.rival_ms:.2f}", f"{r.ours_ms:.2f}",
            f"{r.ratio:.2f}x", f"{r.low:.2f} to {r.high:.2f}", str(r.rounds),
        )  # fmt: skip
    console = Console()
    console.print(table)
    console.print(f"medians; torch {torch.__version__}, kernels {kernel_names()}, {threads()}", style="dim")


if __name__ == "__main__":
    sys.exit(main())
