"""What each step of calibration adds to the accuracy, without any training: a table of steps against (M, N).

    python examples/fitting.py                                                   the Fashion-MNIST model that ships
    python examples/fitting.py --weights resnet20-12fca82f.th --data cifar-10-batches-py         ResNet-20, CIFAR-10

Steps: levels only; + outputs corrected per channel; + weights fitted to the moments of inputs; + with compensation
instead; + the statistics of batch norm taken again on the calibration images (docs/fitting.md).
"""

from __future__ import annotations

import argparse
import copy
import time
from dataclasses import replace

from models_cifar import load_checkpoint, resnet20
from resnet20_grid import MEAN, STD
from rich.console import Console
from torch import Tensor, nn

import abcfx
from abcfx.cli.demo_model import load_demo_model
from abcfx.data import Dataset, load
from abcfx.plan import SEARCHED
from abcfx.train.evaluate import evaluate, reestimate_batch_norm

STEPS = {
    "levels only": {"correct": False},
    "+ outputs corrected": {},
    '+ fit="moments"': {"fit": "moments"},
    '+ fit="compensate"': {"fit": "compensate"},
}
BATCH = 125


def load_case(args: argparse.Namespace) -> tuple[nn.Module, Dataset]:
    """The float model and its data."""
    if args.weights is None:
        return load_demo_model(), load(args.data)
    model = resnet20()
    load_checkpoint(model, args.weights)
    return model.eval(), replace(load(args.data), mean=MEAN, std=STD)


def measure(
    model: nn.Module, data: Dataset, images: list[Tensor], bases: tuple[int, int], basis: str, console: Console
) -> None:
    """One line for each step: accuracy and the processor time of calibration."""
    for name, options in STEPS.items():
        quantized = abcfx.quantize_model(model, *bases, basis=basis)
        start = time.process_time()
        abcfx.calibrate(quantized, images, **options)
        seconds = time.process_time() - start
        score = evaluate(quantized, data).accuracy
        console.print(f"| {bases[0]}, {bases[1]} | {name} | {score:.2f} % | {seconds:.1f} s |", highlight=False)
    again = copy.deepcopy(quantized)
    reestimate_batch_norm(again, images)
    score = evaluate(again, data).accuracy
    console.print(f"| {bases[0]}, {bases[1]} | + batch norm again | {score:.2f} % | |", highlight=False)


def pair(text: str) -> tuple[int, int]:
    m, n = text.split(",")
    return int(m), int(n)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="checkpoint of ResNet-20 (default: the Fashion-MNIST model that ships)")
    parser.add_argument("--data", help="CIFAR-10 folder or .npz with --weights (default: the Fashion-MNIST subset)")
    parser.add_argument("--bases", type=pair, nargs="+", default=[(2, 2), (2, 3), (3, 2), (3, 3)], metavar="M,N")
    parser.add_argument("--basis", choices=SEARCHED, default=SEARCHED[0], help="of the weights (%(default)s)")
    parser.add_argument("--calibration", type=int, default=1000, help="training images to calibrate on (1000)")
    parser.add_argument("--limit", type=int, help="test on so many images only")
    args, console = parser.parse_args(arguments), Console()
    if args.calibration < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--limit and --calibration must be at least 1")
    try:
        model, data = load_case(args)
    except (FileNotFoundError, ValueError) as problem:
        raise SystemExit(f"fitting: {problem}") from None
    data = data if args.limit is None else data.first(args.limit)
    images = list(data.calibration_batches(args.calibration, BATCH))
    console.print(f"float: {evaluate(model, data).accuracy:.2f} % of {len(data.test_y)} images\n", highlight=False)
    console.print("| M, N | step | accuracy | calibration, processor time |\n|---|---|---|---|", highlight=False)
    for bases in args.bases:
        measure(model, data, images, bases, args.basis, console)


if __name__ == "__main__":
    main()
