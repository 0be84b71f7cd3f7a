"""The layers that are measured: the sizes of the single-layer benchmarks, and the layers of well-known networks."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import replace

from abcfx.bench.workloads import ConvShape, LinearShape, Shape

# (channels, outputs, kernel, image): the 3x3 layers of a ResNet-18, then the two pointwise ones of a ResNet-50 block
CONVOLUTIONS = (
    (64, 64, 3, 56), (128, 128, 3, 28), (256, 256, 3, 14), (512, 512, 3, 7),
    (256, 64, 1, 56), (64, 256, 1, 56),
)  # fmt: skip
LINEARS = ((512, 512), (1024, 1024), (4096, 4096), (768, 3072))
GEMMS = ((512, 512, 512), (1024, 1024, 1024), (2048, 2048, 2048), (256, 4096, 4096), (784, 1152, 128), (49, 4608, 512))

_RESNET18 = (
    (64, 64, 3, 56, 1), (64, 128, 3, 56, 2), (128, 128, 3, 28, 1), (128, 256, 3, 28, 2), (256, 256, 3, 14, 1),
    (256, 512, 3, 14, 2), (512, 512, 3, 7, 1),
)  # fmt: skip
_RESNET50 = (
    (64, 64, 1, 56, 1), (64, 256, 1, 56, 1), (256, 64, 1, 56, 1), (512, 128, 1, 28, 1), (128, 512, 1, 28, 1),
    (1024, 256, 1, 14, 1), (256, 1024, 1, 14, 1), (2048, 512, 1, 7, 1), (512, 2048, 1, 7, 1),
)  # fmt: skip
_WRN28 = ((160, 160, 3, 32, 1), (320, 320, 3, 16, 1), (640, 640, 3, 8, 1))
# in, out of the linear layers of a transformer block of width 768
_BLOCK = {"qkv": (768, 2304), "projection": (768, 768), "up": (768, 3072), "down": (3072, 768)}
_TOKENS = {"vit-b": 197, "bert-base": 128}
# the (M, N) map of `--quick`: a pointwise layer, an early and a late 3x3 layer, and a linear layer at two batch sizes
QUICK = ("linear/1024-b1", "linear/1024-b256", "resnet18/3x3-64@56", "resnet18/3x3-256@14", "resnet50/1x1-256-64@56")


def conv_name(channels: int, outputs: int, kernel: int, image: int, stride: int = 1) -> str:
    width = f"{channels}" if channels == outputs else f"{channels}-{outputs}"
    return f"{kernel}x{kernel}-{width}@{image}" + (f"/{stride}" if stride > 1 else "")


def conv_shapes(batches: Iterable[int], sizes: Iterable[tuple[int, int, int, int]] = CONVOLUTIONS) -> list[Shape]:
    return [ConvShape(conv_name(*size), batch, *size) for size in sizes for batch in batches]


def linear_shapes(sizes: Iterable[tuple[int, int]], batches: Iterable[int]) -> list[Shape]:
    batches = list(batches)
    return [LinearShape(linear_name(*size), batch, *size) for size in sizes for batch in batches]


def linear_name(depth: int, outputs: int) -> str:
    return f"{depth}" if depth == outputs else f"{depth}-{outputs}"


def network_shapes() -> list[Shape]:
    """The shapes of the break-even map; images and sequences one at a time, single linear layers at batch 1 and 256."""
    shapes: list[Shape] = [
        replace(shape, name=f"linear/{shape.name}-b{shape.batch}")
        for shape in linear_shapes([(1024, 1024), (4096, 4096)], (1, 256))
    ]
    for network, sizes in (("resnet18", _RESNET18), ("resnet50", _RESNET50), ("wrn-28-10", _WRN28)):
        shapes += [
            ConvShape(f"{network}/{conv_name(*size)}", 1, size[0], size[1], size[2], size[3], size[4]) for size in sizes
        ]
    for network, tokens in _TOKENS.items():
        shapes += [LinearShape(f"{network}/{name}", tokens, *size) for name, size in _BLOCK.items()]
    return shapes


def select(shapes: Sequence[Shape], only: Sequence[str]) -> list[Shape]:
    """Those whose name matches a glob; ValueError for a glob that matches none."""
    for pattern in only:
        if not fnmatch.filter([shape.name for shape in shapes], pattern):
            names = ", ".join(dict.fromkeys(shape.name for shape in shapes))
            raise ValueError(f"--only {pattern!r} matches no shape; the names are {names}")
    return [shape for shape in shapes if not only or any(fnmatch.fnmatch(shape.name, glob) for glob in only)]
