"""`python -m abcfx bench`: abcfx against f32, bf16 and int8 on this machine; one sub-command for each question."""

from __future__ import annotations

import argparse

from abcfx.cli import bench_breakeven, bench_fit, bench_gemm, bench_layers, bench_model, bench_pack, bench_training
from abcfx.cli.front import Parser

HELP = "Measure abcfx against f32, bf16 and int8 on this machine, interleaved, packing included and excluded."
EXAMPLE = "python -m abcfx bench conv --quick"
PARTS = (
    *bench_gemm.PARTS, *bench_pack.PARTS, *bench_layers.PARTS, *bench_model.PARTS, *bench_training.PARTS,
    *bench_fit.PARTS, *bench_breakeven.PARTS,
)  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parts = parser.add_subparsers(
        dest="part", metavar="PART", required=True, parser_class=Parser, title="what to measure",
        description="python -m abcfx bench PART --help shows the options of a part, with an example.",
    )  # fmt: skip
    for part in PARTS:
        child = parts.add_parser(
            part.name, help=part.help, description=part.help, epilog=f"example:\n  {part.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )  # fmt: skip
        part.add_arguments(child)
        child.set_defaults(run_part=part.run)


def run(arguments: argparse.Namespace) -> int:
    """0; 1 if a kernel computes something wrong; 130 after Ctrl-C, with what was measured until then."""
    return arguments.run_part(arguments)
