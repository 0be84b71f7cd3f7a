"""Accuracy of the CIFAR-10 ResNet-20 for each number of weight bases M and activation bases N, without any training.

    python examples/resnet20_grid.py --weights resnet20-12fca82f.th --data cifar-10-batches-py

The float model is quantized and calibrated on a few hundred training images; nothing is trained, and the first and last
layer stay float. Prints a table and writes OUT.json and OUT.png. Weights: the checkpoint of akamaster's
pytorch_resnet_cifar10 (91.73 %), or any other with the same parameter names. Data: CIFAR-10 in an official form.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
from models_cifar import load_checkpoint, resnet20
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor, nn

import abcfx
from abcfx.data import cifar10
from abcfx.plan import BASES

# what the checkpoint was trained with: the moments of ImageNet
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BATCH = 125


def prepare(images: Tensor) -> Tensor:
    """u8[n, 3, 32, 32] → f32[n, 3, 32, 32], normalized, channels last."""
    mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
    return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)


def batches(images: Tensor) -> Iterator[Tensor]:
    for part in images.split(BATCH):
        yield prepare(part)


def accuracy(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Percent of the images put in their class."""
    with torch.inference_mode():
        right = sum(
            int((model(x).argmax(1) == y).sum()) for x, y in zip(batches(images), labels.split(BATCH), strict=True)
        )
    return 100 * right / len(labels)


def measure(model: nn.Module, args: argparse.Namespace, train_x: Tensor, test: tuple[Tensor, Tensor]) -> dict:
    """Accuracy in float and at each (M, N), as a JSON-able document."""
    pairs = [(m, n) for m in args.bases for n in args.bases]
    columns = TextColumn("{task.description:<24}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, transient=True) as progress:
        task = progress.add_task("float", total=1 + len(pairs))
        found = {"float": accuracy(model, *test), "grid": []}
        for m, n in pairs:
            progress.update(task, advance=1, description=f"M = {m}, N = {n}")
            quantized = abcfx.quantize_model(model, m, n, basis=args.basis, levels=args.levels)
            abcfx.calibrate(quantized, batches(train_x), progress=False)
            found["grid"].append({"M": m, "N": n, "accuracy": accuracy(quantized, *test)})
    return found


def show(found: dict, bases: list[int], console: Console) -> None:
    """A table of accuracies; green within 2 points of float, yellow within 6."""
    table = Table(title=f"ResNet-20, CIFAR-10: % right after calibration only (float: {found['float']:.2f} %)")
    table.add_column("")
    for n in bases:
        table.add_column(f"N = {n}", justify="right")
    cells = {(cell["M"], cell["N"]): cell["accuracy"] for cell in found["grid"]}
    for m in bases:
        row = []
        for n in bases:
            loss = found["float"] - cells[m, n]
            row.append(f"[{'green' if loss <= 2 else 'yellow' if loss <= 6 else 'red'}]{cells[m, n]:.2f}[/]")
        table.add_row(f"M = {m}", *row)
    console.print(table)


def draw(found: dict, bases: list[int], path: Path) -> None:
    """The table as a heat map."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    cells = {(cell["M"], cell["N"]): cell["accuracy"] for cell in found["grid"]}
    values = [[cells[m, n] for n in bases] for m in bases]
    figure, axes = pyplot.subplots(figsize=(1.6 + len(bases), 1.2 + 0.8 * len(bases)), layout="constrained")
    image = axes.imshow(values, cmap="viridis", vmin=10, vmax=100)
    for row, line in enumerate(values):
        for column, value in enumerate(line):
            color = "black" if value > 60 else "white"
            axes.text(column, row, f"{value:.1f}", ha="center", va="center", color=color)
    axes.set_xticks(range(len(bases)), bases)
    axes.set_yticks(range(len(bases)), bases)
    axes.set_xlabel("activation bases N")
    axes.set_ylabel("weight bases M")
    axes.set_title(f"ResNet-20, CIFAR-10, no training\nfloat: {found['float']:.2f} %")
    figure.colorbar(image, label="% right")
    figure.savefig(path, dpi=150)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="resnet20-12fca82f.th", help="checkpoint (default: %(default)s)")
    parser.add_argument("--data", default="cifar-10-batches-py", help="CIFAR-10 folder or .npz (default: %(default)s)")
    parser.add_argument("--out", type=Path, default=Path("resnet20_grid"), help="path of the results, without suffix")
    parser.add_argument(
        "--bases", type=int, nargs="+", default=[1, 2, 3, 4, 5], help="values of M and N (default: 1 to 5)"
    )
    parser.add_argument("--limit", type=int, help="test on so many images only")
    parser.add_argument("--calibration", type=int, default=1000, help="training images to calibrate on (default: 1000)")
    parser.add_argument("--basis", default="alternating", choices=BASES)
    parser.add_argument("--levels", default="coded", choices=("coded", "thermometer"))
    args = parser.parse_args(arguments)
    if args.calibration < 1 or (args.limit is not None and args.limit < 1):
        parser.error("--limit and --calibration must be at least 1")
    return args


def main(arguments: list[str] | None = None) -> None:
    args, console = parse(arguments), Console()
    model = resnet20()
    try:
        load_checkpoint(model, args.weights)
        (train_x, _), (test_x, test_y) = cifar10.load(args.data)
    except (FileNotFoundError, ValueError) as problem:
        raise SystemExit(f"resnet20_grid: {problem}") from None
    test = torch.from_numpy(test_x[: args.limit]), torch.from_numpy(test_y[: args.limit])
    found = measure(model.eval(), args, torch.from_numpy(train_x[: args.calibration]), test)
    settings = {
        "basis": args.basis,
        "levels": args.levels,
        "calibration_images": args.calibration,
        "images": len(test[1]),
    }
    show(found, args.bases, console)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.with_suffix(".json").write_text(json.dumps(settings | found, indent=2) + "\n")
    draw(found, args.bases, args.out.with_suffix(".png"))
    console.print(f"wrote {args.out.with_suffix('.json')} and {args.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
