"""`bench linear` and `bench conv`: single layers, f32 in and f32 out, against their rivals."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from abcfx.bench import shapes
from abcfx.bench.contest import measure_layer
from abcfx.bench.tables import race_table
from abcfx.bench.workloads import LAYOUTS, Shape
from abcfx.cli.bench_options import (
    Part,
    add_bases,
    add_basis,
    add_common,
    add_method,
    add_only,
    add_rivals,
    run_report,
    set_up,
    specs_for,
)  # fmt: skip
from abcfx.cli.front import UsageError, positive, usage_errors

LAYER_RIVALS = ("f32", "bf16", "int8", "int8-only")
QUICK_SHAPES = 2


def _add_shared(parser: argparse.ArgumentParser) -> None:
    add_bases(parser)
    add_only(parser)
    add_rivals(parser, LAYER_RIVALS)
    add_method(parser)
    add_basis(parser)
    add_common(parser, seconds=3)


def add_linear(parser: argparse.ArgumentParser) -> None:
    sizes = " ".join(f"{depth}x{outputs}" for depth, outputs in shapes.LINEARS)
    parser.add_argument("--sizes", nargs="+", metavar="INxOUT", help=f"features; or one number for both ({sizes})")
    parser.add_argument("--batch", nargs="+", type=positive, help="rows of the input (1 256)")
    _add_shared(parser)


def add_conv(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--batch", nargs="+", type=positive, help="images of the input (1 8)")
    parser.add_argument(
        "--layouts", nargs="+", choices=LAYOUTS, default=list(LAYOUTS), metavar="LAYOUT",
        help=f"of our input; a rival may take its fastest ({' '.join(LAYOUTS)})",
    )  # fmt: skip
    _add_shared(parser)


def run_linear(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    sizes = [_size(text) for text in arguments.sizes] if arguments.sizes else list(shapes.LINEARS)
    if arguments.quick and not arguments.sizes:
        sizes = sizes[1:2]
    return _run(arguments, shapes.linear_shapes(sizes, arguments.batch or (1, 256)), ("rows",))


def run_conv(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    batches = arguments.batch or ((1,) if arguments.quick else (1, 8))
    sizes = shapes.CONVOLUTIONS[1:5:3] if arguments.quick and not arguments.only else shapes.CONVOLUTIONS
    return _run(arguments, shapes.conv_shapes(batches, sizes), arguments.layouts)


def _run(arguments: argparse.Namespace, found: Sequence[Shape], layouts: Sequence[str]) -> int:
    with usage_errors():
        found = shapes.select(found, arguments.only)
    specs = specs_for(arguments, layouts)
    jobs = [(str(shape), _job(shape, specs, arguments)) for shape in found]
    return run_report(arguments, jobs, race_table)


def _job(shape: Shape, specs: list, arguments: argparse.Namespace):
    return lambda tick: measure_layer(shape.workload(), specs, arguments.rivals, arguments.seconds, tick)


def _size(text: str) -> tuple[int, int]:
    parts = text.split("x")
    if len(parts) > 2 or not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"--sizes {text}: give INxOUT such as 768x3072, or one number for both")
    return int(parts[0]), int(parts[-1])


PARTS = (
    Part(
        "linear", "Linear layers: our kernels against f32, bf16 and int8.",
        "python -m abcfx bench linear --sizes 1024 768x3072 --batch 1 256 --bases 2,2 --threads 2",
        add_linear, run_linear,
    ),
    Part(
        "conv", "2-d convolutions: our kernels, from either input layout, against f32, bf16 and int8.",
        "python -m abcfx bench conv --batch 1 --only '3x3-*' --bases 1,1 2,2 --json conv.json",
        add_conv, run_conv,
    ),
)  # fmt: skip
