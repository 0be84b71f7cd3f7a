"""`bench fit`: fitting the weight bases of a network again at every training step."""

from __future__ import annotations

import argparse

from abcfx.bench.fit import NETWORKS, fit_table, measure_fit
from abcfx.cli.bench_options import Part, add_common, run_report, set_up
from abcfx.plan import MAX_BASES

BASES = [1, 2, 3, 4, 5]


def add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--bases", nargs="+", type=int, default=BASES, choices=range(1, MAX_BASES + 1), metavar="M",
        help="weight bases M (1 2 3 4 5)",
    )  # fmt: skip
    parser.add_argument(
        "--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS), metavar="NETWORK",
        help=f"whose layers to fit ({' '.join(NETWORKS)})",
    )  # fmt: skip
    add_common(parser, seconds=3)


def run_fit(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    networks = arguments.networks[:1] if arguments.quick else arguments.networks
    jobs = [
        (name, lambda tick, name=name: measure_fit(name, arguments.bases, arguments.seconds, tick))
        for name in networks
    ]
    return run_report(arguments, jobs, fit_table)


PARTS = (
    Part(
        "fit", "Fitting weight bases again at every training step: warm against cold, and the other kinds of bases.",
        "python -m abcfx bench fit --networks resnet20 --bases 2 3 --threads 2", add_fit, run_fit,
    ),
)  # fmt: skip
