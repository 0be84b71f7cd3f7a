"""`bench training`, `bench step`: a training step against float, product by product and whole."""

from __future__ import annotations

import argparse

from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from abcfx.bench.contest import Tick
from abcfx.bench.memory import MemoryMeasurement, measure_memory
from abcfx.bench.session import Job
from abcfx.bench.shapes import conv_shapes
from abcfx.bench.tables import speed
from abcfx.bench.training import DTYPES, PRODUCTS, Bases, TrainingMeasurement, measure_products, measure_step
from abcfx.cli.bench_options import Part, add_common, run_report, set_up
from abcfx.cli.front import UsageError, one_line, positive, usage_errors
from abcfx.cli.models import MODEL_HELP, example_input, load_model
from abcfx.cli.units import milliseconds
from abcfx.plan import LayerPlan

TRIPLES = ("1,1,4", "2,2,4", "2,2,0")
# (channels, outputs, kernel, image): the 3x3 layers of a ResNet-18 with the images of CIFAR-10 in two of them
SHAPES = ((64, 64, 3, 32), (128, 128, 3, 28), (256, 256, 3, 14), (512, 512, 3, 7))
QUICK_SHAPES = ((128, 128, 3, 28),)


def _add_bases(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bases", nargs="+", default=TRIPLES, metavar="M,N,K",
        help=f"weight, activation and gradient bases; K = 0: float gradients ({' '.join(TRIPLES)})",
    )  # fmt: skip


def _add_shared(parser: argparse.ArgumentParser, seconds: float) -> None:
    _add_bases(parser)
    parser.add_argument("--rivals", nargs="+", choices=tuple(DTYPES), default=["f32"], help="(f32)")
    add_common(parser, seconds)


def add_training(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", type=positive, default=32, help="images (32)")
    _add_shared(parser, 3)


def add_step(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument(
        "--simulate", action="store_true", help="also dense products of quantized values, in bf16 autocast, if K = 0"
    )
    _add_shared(parser, 20)


def _add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--input", metavar="SHAPE", default="16,3,224,224", help="(16,3,224,224)")
    parser.add_argument("--unsafe-load", action="store_true", help="read a pickled module, which runs the code in it")


def triples_of(arguments: argparse.Namespace) -> list[Bases]:
    found = []
    for text in arguments.bases:
        values = text.split(",")
        if len(values) != 3 or not all(value.strip().isdigit() for value in values):
            raise UsageError(f"--bases {text}: give triples M,N,K such as 2,2,4")
        bases = Bases(*map(int, values))
        with usage_errors(f"--bases {text}: "):
            LayerPlan(bases.M, bases.N, grad_bases=bases.K)
        found.append(bases)
    return list(dict.fromkeys(found))


def run_training(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    triples = triples_of(arguments)
    shapes = conv_shapes([arguments.batch], QUICK_SHAPES if arguments.quick else SHAPES)
    race = triples, arguments.rivals, arguments.seconds
    jobs = [(shape.name, lambda tick, shape=shape: measure_products(shape, *race, tick)) for shape in shapes]
    return run_report(arguments, jobs, training_table)


def run_step(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    triples = triples_of(arguments)
    model, x = load_model(arguments.model, arguments.unsafe_load), example_input(arguments.input)
    job = _of_model(
        arguments, x, lambda tick: measure_step(
            arguments.model, model, x, triples, arguments.rivals, arguments.seconds, tick,
            arguments.simulate)
    )  # fmt: skip
    return run_report(arguments, [(arguments.model, job)], training_table)


def _of_model(arguments: argparse.Namespace, x: Tensor, measure: Job) -> Job:
    """What goes wrong in somebody's model is told in one sentence."""

    def job(tick: Tick) -> object:
        try:
            return measure(tick)
        except (ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"{arguments.model} on an input {list(x.shape)}: {one_line(error)}") from error

    return job


def training_table(found: TrainingMeasurement) -> Group:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for header in ("M,N,K", "part"):
        table.add_column(header, no_wrap=True)
    for header in ("abcfx", "rival", "its time", "rival / abcfx", "middle 80 %"):
        table.add_column(header, justify="right", no_wrap=True)
    for entry in found.entries:
        for kind, ratio in entry.ratios.items():
            table.add_row(
                str(entry.bases), entry.part, milliseconds(entry.ms.median), kind,
                milliseconds(found.rivals[kind][entry.part]), speed(ratio), f"{ratio.low:.2f}–{ratio.high:.2f}",
                end_section=entry.part == PRODUCTS[-1],
            )  # fmt: skip
    return Group(Text(found.title, "bold"), table, Text(""))


def add_memory(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    _add_bases(parser)
    add_common(parser, 1)


def run_memory(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    triples = triples_of(arguments)
    model, x = load_model(arguments.model, arguments.unsafe_load), example_input(arguments.input)
    job = _of_model(arguments, x, lambda tick: measure_memory(arguments.model, model, x, triples, tick))
    return run_report(arguments, [(arguments.model, job)], memory_table)


def memory_table(found: MemoryMeasurement) -> Group:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for header in ("form", "saved", "of float", "peak", "of float"):
        table.add_column(header, justify="left" if header == "form" else "right", no_wrap=True)
    for step in found.steps:
        rival = next(s for s in found.steps if s.bases is None and s.form.split()[-1] == step.form.split()[-1])
        ratios = [rival.saved / max(step.saved, 1), rival.peak / max(step.peak, 1)]
        shown = ["" if step.bases is None else f"1/{ratio:.1f}" for ratio in ratios]
        table.add_row(step.form, f"{step.saved / 1e6:.1f} MB", shown[0], f"{step.peak / 1e6:.1f} MB", shown[1])
    return Group(Text(found.title, "bold"), table, Text("saved: kept for the backward pass", "dim"), Text(""))


PARTS = (
    Part(
        "training", "The three products of a convolution's training step against float: forward, both gradients.",
        "python -m abcfx bench training --bases 2,2,4 --threads 2", add_training, run_training,
    ),
    Part(
        "step", "A whole compiled training step of a model: forward, backward, update.",
        "python -m abcfx bench step torchvision.models:resnet18 --input 8,3,224,224 --bases 2,2,4",
        add_step, run_step,
    ),
    Part(
        "memory", "Memory of a training step: bytes kept for the backward pass, and the peak.",
        "python -m abcfx bench memory torchvision.models:resnet18 --input 16,3,224,224 --bases 2,2,0",
        add_memory, run_memory,
    ),
)  # fmt: skip
