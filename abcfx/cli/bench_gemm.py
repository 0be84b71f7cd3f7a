"""`bench gemm`: the binary product alone, one thread and several."""

from __future__ import annotations

import argparse

import torch

from abcfx.bench import shapes
from abcfx.bench.gemm import gemm_table, measure_gemm
from abcfx.bench.workloads import LinearShape
from abcfx.cli.bench_options import (
    Part,
    add_bases,
    add_basis,
    add_common,
    add_method,
    run_report,
    set_up,
    specs_for,
)  # fmt: skip
from abcfx.cli.front import UsageError


def add_gemm(parser: argparse.ArgumentParser) -> None:
    sizes = " ".join("x".join(map(str, size)) for size in shapes.GEMMS)
    parser.add_argument(
        "--sizes", nargs="+", metavar="RxKxC", help=f"rows x depth x columns; one number for all three ({sizes})"
    )
    add_bases(parser)
    add_method(parser)
    add_basis(parser)
    add_common(parser, seconds=3)


def run_gemm(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    default = shapes.GEMMS[1:2] if arguments.quick else shapes.GEMMS
    sizes = [_size(text) for text in arguments.sizes] if arguments.sizes else default
    specs = specs_for(arguments, ("rows",))
    found = [LinearShape("x".join(map(str, size)), *size) for size in sizes]
    threads = torch.get_num_threads()
    jobs = [
        (shape.name, lambda tick, shape=shape: measure_gemm(shape, specs, threads, arguments.seconds, tick))
        for shape in found
    ]
    return run_report(arguments, jobs, gemm_table)


def _size(text: str) -> tuple[int, int, int]:
    parts = text.split("x")
    if len(parts) not in (1, 3) or not all(part.isdigit() and int(part) for part in parts):
        raise UsageError(f"--sizes {text}: give rows x depth x columns such as 256x4096x4096, or one number for all")
    numbers = [int(part) for part in parts] * (3 if len(parts) == 1 else 1)
    return numbers[0], numbers[1], numbers[2]


PARTS = (
    Part(
        "gemm", "The binary matrix product alone: bit multiply-adds per second, per core, and scaling with threads.",
        "python -m abcfx bench gemm --sizes 1024 256x4096x4096 --bases 1,1 4,4", add_gemm, run_gemm,
    ),
)  # fmt: skip
