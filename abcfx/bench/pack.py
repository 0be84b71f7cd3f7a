"""How fast activations become bits, against a copy of the same bytes by the same threads.

    ratio = time of dst.copy_(src) / time of pack_image(src)

A copy reads and writes every byte; packing reads them and writes N bits for each value. Both are called as a user
calls them: the operator allocates its output. An image that fits the caches is packed again and again; images that do
not are taken in turns, so that every call finds its input in memory only.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text
from torch import Tensor

from abcfx.bench.contest import Tick
from abcfx.bench.race import Spread, run_laps

GOAL = 0.6  # of the bandwidth of a copy
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
LAYOUTS = {"NHWC": torch.channels_last, "NCHW": torch.contiguous_format}
# about how many bytes an image has, and how many take turns: together more than the caches of a desktop processor
PLACES = {"cache": (1 << 19, 1), "memory": (1 << 24, 8)}


@dataclass(frozen=True)
class PackShape:
    """A batch of square images; the batch follows from the bytes of the place."""

    place: str
    layout: str
    dtype: str
    channels: int
    size: int
    affine: bool = False

    @property
    def name(self) -> str:
        affine = ", affine" if self.affine else ""
        return f"{self.channels}ch {self.size}² {self.dtype} {self.layout} in {self.place}{affine}"

    def images(self) -> list[Tensor]:
        """What takes turns, values as after a batch norm."""
        bytes_, turns = PLACES[self.place]
        dtype = DTYPES[self.dtype]
        batch = max(1, round(bytes_ / (self.channels * self.size**2 * dtype.itemsize)))
        image = torch.randn(batch, self.channels, self.size, self.size)
        return [image.to(dtype, memory_format=LAYOUTS[self.layout], copy=True) for _ in range(turns)]


@dataclass(frozen=True)
class PackRate:
    """ratio = copy / pack in the same round; bytes_per_s of input read."""

    N: int
    ms: Spread
    bytes_per_s: float
    ratio: Spread


@dataclass
class PackMeasurement:
    name: str
    title: str
    about: dict[str, Any]
    copy_bytes_per_s: float = 0.0
    rates: list[PackRate] = field(default_factory=list)


def measure_pack(shape: PackShape, planes: Sequence[int], seconds: float, tick: Tick) -> PackMeasurement:
    """A copy and packing into each number of planes, in one race; padded by one pixel as a 3x3 convolution wants it."""
    images = shape.images()
    copies = [torch.empty_like(image) for image in images]
    affine = (torch.rand(shape.channels) + 0.5, torch.randn(shape.channels)) if shape.affine else (None, None)
    about = {**asdict(shape), "batch": images[0].shape[0], "bytes": images[0].nbytes}
    found = PackMeasurement(shape.name, shape.name, {**about, "threads": torch.get_num_threads()})

    def pack(n: int) -> Callable[[int], Tensor]:
        scale, shift = torch.tensor([5 / 2**n]), torch.tensor([-2.4])
        return lambda i: torch.ops.abc_k.pack_image(images[i], scale, shift, n, "coded", 1, (1, 1), *affine)

    tick("racing")
    with torch.inference_mode():
        entrants = {"copy": _in_turns(lambda i: copies[i].copy_(images[i]), len(images))}
        entrants |= {f"{n}": _in_turns(pack(n), len(images)) for n in planes}
        laps = run_laps(entrants, seconds)
    size = images[0].nbytes
    found.copy_bytes_per_s = size / (laps.ms("copy").median / 1e3)
    for n in planes:
        ms = laps.ms(f"{n}")
        found.rates.append(PackRate(n, ms, size / (ms.median / 1e3), laps.ratio("copy", f"{n}")))
    return found


def _in_turns(function: Callable[[int], object], count: int) -> Callable[[], object]:
    turns = itertools.cycle(range(count))
    return lambda: function(next(turns))


def pack_table(found: PackMeasurement) -> Group:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), header_style="bold")
    for header in ("N", "time", "GB/s", "of a copy", "from", "to"):
        table.add_column(header, justify="right", no_wrap=True)
    for rate in found.rates:
        style = "green" if rate.ratio.median >= GOAL else "yellow"
        table.add_row(
            str(rate.N), f"{1e3 * rate.ms.median:.1f} µs", f"{rate.bytes_per_s / 1e9:.1f}",
            Text(f"{rate.ratio.median:.2f}", style), f"{rate.ratio.low:.2f}", f"{rate.ratio.high:.2f}",
        )  # fmt: skip
    note = f"bytes of input read; a copy makes {found.copy_bytes_per_s / 1e9:.1f} GB/s"
    return Group(Text(found.title, "bold"), table, Text(note, "dim"), Text(""))
