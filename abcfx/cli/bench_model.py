"""`bench model MODEL`: a whole model, compiled, against the same model in f32, bf16 and int8."""

from __future__ import annotations

import argparse

from abcfx.bench.model import KINDS, measure_model
from abcfx.bench.tables import race_table
from abcfx.cli.bench_options import DEFAULT_BASES, Part, add_bases, add_common, add_rivals, bases_of, run_report, set_up
from abcfx.cli.front import UsageError, one_line
from abcfx.cli.models import MODEL_HELP, example_input, load_model
from abcfx.options import FLOAT_LAYERS
from abcfx.plan import BASES

QUICK_BASES = ("2,2",)
MODEL_RIVALS = {
    "f32": "compiled and eager, channels_last",
    "bf16": "the same in bf16",
    "int8": "PT2E with the x86 inductor quantizer",
}


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    parser.add_argument("--input", metavar="SHAPE", help="e.g. 8,3,224,224 (1,3,224,224) or 1,128:int64")
    parser.add_argument("--unsafe-load", action="store_true", help="read a pickled module, which runs the code in it")
    add_bases(parser)
    parser.add_argument("--unfused", action="store_true", help="each M,N without the fusion passes too")
    parser.add_argument(
        "--float-layers", choices=FLOAT_LAYERS, default="f32",
        help="what layers that stay in float multiply in (%(default)s), in our forms",
    )
    parser.add_argument(
        "--all-layers", action="store_true", help="quantize the first and the last layer too: MODEL is a part of one"
    )
    parser.add_argument("--basis", choices=BASES, default=BASES[0], help="how weight bases are fitted (%(default)s)")
    add_rivals(parser, KINDS, MODEL_RIVALS)
    add_common(parser, seconds=10)


def run_model(arguments: argparse.Namespace) -> int:
    set_up(arguments)
    if arguments.quick and arguments.bases is DEFAULT_BASES:
        arguments.bases = QUICK_BASES
    pairs = bases_of(arguments)
    model = load_model(arguments.model, arguments.unsafe_load)
    x = example_input(arguments.input or ("1,1,28,28" if arguments.model == "demo" else "1,3,224,224"))

    def job(tick):
        try:
            return measure_model(
                arguments.model, model, x, pairs, arguments.rivals, arguments.seconds, tick, arguments.unfused,
                arguments.all_layers, arguments.float_layers, arguments.basis,
            )  # fmt: skip
        except (ValueError, TypeError, RuntimeError) as error:
            raise UsageError(f"{arguments.model} on an input {list(x.shape)}: {one_line(error)}") from error

    return run_report(arguments, [(arguments.model, job)], race_table)


PARTS = (
    Part(
        "model", "A whole model compiled with backend=\"abc\" against f32, bf16 and int8 forms of it.",
        "python -m abcfx bench model torchvision.models:resnet18 --input 8,3,224,224 --bases 2,2",
        add_model, run_model,
    ),
)  # fmt: skip
