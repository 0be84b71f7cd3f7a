"""`bench pack`: how fast activations become bits, against a copy of the same bytes by the same threads.

    ratio = time of dst.copy_(src) / time of pack_image(src)

A copy reads and writes every byte; packing reads them and writes N bits for each value. Both are called as a user
calls them: the operator allocates its output. Images that fit the caches are packed again and again; those that do not
are taken in turns, so that every call finds its input in memory only.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from abcfx.cli import machine
from abcfx.cli.front import UsageError, positive
from abcfx.cli.timing import race
from abcfx.ops import library

HELP = "Speed of packing activations into bits, against a copy of the same bytes."
EXAMPLE = "python -m abcfx bench pack --planes 1 2 --dtypes float32 bfloat16 --threads 2"
GOAL = 0.6  # of the bandwidth of a copy
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"channels_last": torch.channels_last, "nchw": torch.contiguous_format}
# bytes of an image, and how many take turns: together beyond any last-level cache of a small machine
PLACES = {"cache": (1 << 19, 1), "memory": (1 << 24, 8)}


@dataclass(frozen=True)
class PackSpeed:
    """GB/s of input read, medians over the rounds; ratio and the middle 80 % of it, pack to copy."""

    place: str
    layout: str
    dtype: str
    channels: int
    planes: int
    affine: bool
    mbytes: float
    copy_gb_s: float
    pack_gb_s: float
    ratio: float
    low: float
    high: float


@dataclass(frozen=True)
class Cell:
    """What one row measures; `size` is the height and width of the images."""

    place: str
    layout: str
    dtype: str
    channels: int
    planes: int
    affine: bool
    size: int


def images_of(cell: Cell) -> list[Tensor]:
    """Batches of about the bytes of the place, values as after a batch norm."""
    bytes_, turns = PLACES[cell.place]
    dtype = DTYPES[cell.dtype]
    batch = max(1, round(bytes_ / (cell.channels * cell.size**2 * dtype.itemsize)))
    one = torch.randn(batch, cell.channels, cell.size, cell.size).to(dtype, memory_format=LAYOUTS[cell.layout])
    return [one, *(one.clone() for _ in range(turns - 1))]


def measure(cell: Cell, seconds: float) -> PackSpeed:
    """One row: copy and pack in turns for about `seconds`, padded by one pixel as a 3x3 convolution wants it."""
    images = images_of(cell)
    copies = [torch.empty_like(image) for image in images]
    scale, shift = torch.tensor([5 / 2**cell.planes]), torch.tensor([-2.4])
    affine = (torch.rand(cell.channels) + 0.5, torch.randn(cell.channels)) if cell.affine else (None, None)

    def in_turns(function: Callable[[int], object]) -> Callable[[], object]:
        turns = itertools.cycle(range(len(images)))
        return lambda: function(next(turns))

    def pack(i: int) -> Tensor:
        return torch.ops.abc_k.pack_image(images[i], scale, shift, cell.planes, "coded", 1, (1, 1), *affine)

    found = race(in_turns(lambda i: copies[i].copy_(images[i])), in_turns(pack), images[0].shape[0], seconds)
    size = images[0].nbytes
    return PackSpeed(
        cell.place, cell.layout, cell.dtype, cell.channels, cell.planes, cell.affine, size / 1e6,
        size / found.rival_ms / 1e6, size / found.ours_ms / 1e6, found.ratio, found.low, found.high,
    )  # fmt: skip


def cells(arguments: argparse.Namespace) -> Iterator[Cell]:
    for place, layout, dtype, channels in itertools.product(
        arguments.places, arguments.layouts, arguments.dtypes, arguments.channels
    ):
        for planes in arguments.planes:
            yield Cell(place, layout, dtype, channels, planes, arguments.affine, arguments.size)


def table_of(rows: list[PackSpeed]) -> Table:
    """A line for each image, a column for each number of planes; below the goal in yellow."""
    planes = sorted({row.planes for row in rows})
    table = Table(title="pack, speed relative to a copy of the same bytes", box=box.SIMPLE_HEAD, title_justify="left")
    for name in ("input in", "layout", "dtype", "channels", "copy GB/s"):
        table.add_column(name, justify="right" if name in ("channels", "copy GB/s") else "left")
    for n in planes:
        table.add_column(f"N={n}", justify="right")
    by_image = itertools.groupby(rows, key=lambda row: (row.place, row.layout, row.dtype, row.channels))
    for (place, layout, dtype, channels), group in by_image:
        found = {row.planes: row for row in group}
        ratios = [
            f"[{'green' if row.ratio >= GOAL else 'yellow'}]{row.ratio:.2f}[/] [dim]({row.low:.2f}–{row.high:.2f})[/]"
            for row in (found[n] for n in planes)
        ]
        copy = max(row.copy_gb_s for row in found.values())
        table.add_row(place, layout, dtype, str(channels), f"{copy:.1f}", *ratios)
    return table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    def choice(name: str, values: list, help: str, **more: object) -> None:
        shown = " ".join(map(str, values))
        parser.add_argument(f"--{name}", nargs="+", default=values, help=f"{help} ({shown})", **more)

    choice("planes", [1, 2, 4], "activation bases N, 1 to 8", type=int, choices=range(1, 9), metavar="N")
    choice("channels", [16, 64, 128, 256], "channels of an image", type=positive, metavar="C")
    choice("dtypes", list(DTYPES), "types of the input", choices=list(DTYPES))
    choice("layouts", list(LAYOUTS), "order in memory", choices=list(LAYOUTS))
    choice("places", list(PLACES), "where the input is", choices=list(PLACES))
    parser.add_argument("--size", type=positive, default=28, help="height and width of the images (28)")
    parser.add_argument("--affine", action="store_true", help="with a batch norm folded in")
    parser.add_argument("--threads", type=positive, help="threads (as many as PyTorch has)")
    parser.add_argument("--seconds", type=float, default=0.25, help="time for each ratio (0.25)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to this file too")


def run(arguments: argparse.Namespace) -> int:
    """Prints the table; 1 if a ratio is below the goal."""
    if not library.loaded():
        raise UsageError(f"there is nothing to measure: {library.problem()}")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    console, rows = Console(), []
    todo = list(cells(arguments))
    with console.status("") as status:
        for number, cell in enumerate(todo, 1):
            status.update(f"{number} of {len(todo)}: {cell.layout} {cell.dtype} {cell.channels} channels")
            rows.append(measure(cell, arguments.seconds))
    console.print(table_of(rows))
    console.print(f"{machine.threads()}, pack {library.kernel_variant('pack')}, goal {GOAL:.2f}", style="dim")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1))
    return 0 if all(row.ratio >= GOAL for row in rows) else 1
