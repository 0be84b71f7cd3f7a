"""Accuracy of packed CIFAR-10 models (model.abc of train_cifar10.py) on their kernels, compiled.

    python examples/evaluate_packed.py resnet20-22.abc resnet20-33.abc --data cifar-10-batches-py

Prints M and N, the size of the file, the percentage of the 10,000 test images that are right, and how many answers
differ from the eager model's. With --float-layers f32 bf16 it does so for both: what bfloat16 costs in the layers that
stay in float (docs/backend.md).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from torch import Tensor, nn
from train_cifar10 import IMAGENET, MODELS

import abcfx
from abcfx.api import plan_of
from abcfx.data import Dataset, load
from abcfx.options import FLOAT_LAYERS


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", metavar="FILE", nargs="+", type=Path, help="packed models")
    parser.add_argument("--model", choices=MODELS, default="resnet20", help="their network (%(default)s)")
    parser.add_argument(
        "--moments", choices=("imagenet", "cifar10"), default="imagenet", help="as it was trained (%(default)s)"
    )
    parser.add_argument("--data", default="cifar-10-batches-py", help="CIFAR-10 folder or .npz (%(default)s)")
    parser.add_argument(
        "--float-layers", choices=FLOAT_LAYERS, nargs="+", default=["f32"], help="one row each (%(default)s)"
    )
    parser.add_argument("--threads", type=int, help="threads of PyTorch (as it has them)")
    return parser.parse_args(arguments)


def answers(model: nn.Module, data: Dataset, progress: Progress, text: str) -> Tensor:
    """The class that the model gives each test image, i64[n]."""
    task = progress.add_task(text, total=data.test_batch_count())
    found = []
    with torch.inference_mode():
        for images, _ in data.test_batches():
            found.append(model(images).argmax(1))
            progress.advance(task)
    progress.remove_task(task)
    return torch.cat(found)


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    data = load(args.data)
    data = replace(data, **IMAGENET) if args.moments == "imagenet" else data
    console = Console()
    table = Table(Column("file", no_wrap=True), "M, N", "size", "float layers", "right", "other answers than eager")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True, console=console) as progress:
        for path in args.files:
            architecture = MODELS[args.model]().to(memory_format=torch.channels_last)
            model = abcfx.load_packed(path, architecture)
            pairs = sorted({(p.weight_bases, p.activation_bases) for p in plan_of(model).layers.values()})
            eager = answers(model, data, progress, f"{path.name}, eager")
            for kind in args.float_layers:
                torch._dynamo.reset()
                compiled = torch.compile(model, backend="abc", options={"float_layers": kind})
                given = answers(compiled, data, progress, f"{path.name}, {kind}")
                right = 100 * float((given == data.test_y).float().mean())
                table.add_row(
                    path.name, "; ".join(f"{m}, {n}" for m, n in pairs), f"{path.stat().st_size / 1e3:.0f} kB", kind,
                    f"{right:.2f} %", str(int((given != eager).sum())),
                )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    main()
