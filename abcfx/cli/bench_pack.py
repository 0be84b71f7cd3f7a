"""`bench pack`: activations into bits, against a copy of the same bytes."""

from __future__ import annotations

import argparse
import itertools

from abcfx.bench.pack import DTYPES, LAYOUTS, PLACES, PackShape, measure_pack, pack_table
from abcfx.cli.bench_options import Part, add_common, run_report, set_up
from abcfx.cli.front import positive
from abcfx.plan import MAX_BASES

QUICK_CHANNELS = [64]


def add_pack(parser: argparse.ArgumentParser) -> None:
    def choice(name: str, values: list, help: str, **more: object) -> None:
        shown = " ".join(map(str, values))
        parser.add_argument(f"--{name}", nargs="+", default=values, help=f"{help} ({shown})", **more)

    choice("planes", [1, 2, 4], "activation bases N", type=int, choices=range(1, MAX_BASES + 1), metavar="N")
    parser.add_argument("--channels", nargs="+", type=positive, metavar="C", help="of the images (16 64 128 256)")
    choice("dtypes", list(DTYPES), "of the images", choices=list(DTYPES), metavar="DTYPE")
    choice("layouts", list(LAYOUTS), "of the images", choices=list(LAYOUTS), metavar="LAYOUT")
    choice("places", list(PLACES), "where a call finds its image", choices=list(PLACES), metavar="PLACE")
    parser.add_argument("--size", type=positive, default=28, help="height and width of the images (28)")
    parser.add_argument("--affine", action="store_true", help="with a batch norm folded in")
    add_common(parser, seconds=1)


def run_pack(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    channels = arguments.channels or (QUICK_CHANNELS if arguments.quick else [16, 64, 128, 256])
    found = [
        PackShape(*each, arguments.size, arguments.affine)
        for each in itertools.product(arguments.places, arguments.layouts, arguments.dtypes, channels)
    ]
    jobs = [
        (shape.name, lambda tick, shape=shape: measure_pack(shape, arguments.planes, arguments.seconds, tick))
        for shape in found
    ]
    return run_report(arguments, jobs, pack_table)


PARTS = (
    Part(
        "pack", "Packing activations into bits, against a copy of the same bytes: NHWC and NCHW, in cache and memory.",
        "python -m abcfx bench pack --planes 1 2 --dtypes float32 bfloat16 --threads 2", add_pack, run_pack,
    ),
)  # fmt: skip
