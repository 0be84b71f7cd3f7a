"""Every variant of unpack/kernels.inc: the values of packed bits are those that were quantized, bit for bit."""

from __future__ import annotations

import pytest
import torch
from kernel_abi import BAD_SHAPE, OK, UNPACK, Guarded, fenced, variant
from test_pack import SHAPES
from torch import Tensor

from abcfx.ops.kernel_pack import pack_image
from abcfx.quant import activations

NAMES = ("avx2", "portable")
LEVELS = [(levels, planes) for levels in ("coded", "thermometer") for planes in range(1, 9)]


def problem(shape: tuple, levels: str, planes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(bits, scale, shift, x̂ in the layout of the kernel) of a random image, some values not finite."""
    n, groups, channels, height, width, pad = shape
    x = torch.randn(n, groups * channels, height, width)
    x[torch.rand(x.shape) < 0.02] = torch.nan
    x[torch.rand(x.shape) < 0.02] = torch.inf
    scale = torch.rand(1 if levels == "coded" else planes) + 0.1
    shift = torch.randn(scale.shape)
    packed = pack_image(x, scale, shift, planes, levels, groups, pad)
    wanted = activations.quantize(x, scale, shift, planes, levels).permute(0, 2, 3, 1).contiguous()
    return fenced(packed) if packed.numel() else packed, scale, shift, wanted


def args_of(packed: Tensor, dst: Tensor, scale: Tensor, shift: Tensor, shape: tuple, levels: str) -> UNPACK:
    n, groups, channels, height, width, pad = shape
    pointers = (tensor.data_ptr() for tensor in (packed, dst, scale, shift))
    return UNPACK(
        *pointers, int(levels == "thermometer"), packed.shape[2], n, channels, height, width, *pad, *pad, groups,
        0, n * height, 0, width,
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_values_are_those_quantized(name: str, shape: tuple) -> None:
    kernel = variant("unpack", name)
    for levels, planes in LEVELS:
        packed, scale, shift, wanted = problem(shape, levels, planes)
        dst = Guarded(*wanted.shape, dtype=torch.float32)
        assert kernel(args_of(packed, dst.tensor, scale, shift, shape, levels)) == OK
        assert torch.equal(dst.tensor, wanted), (levels, planes)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_of_channels(name: str) -> None:
    kernel = variant("unpack", name)
    for channels in range(1, 131):
        shape = (1, 1 + channels % 2, channels, 2, 3, (0, 1))
        for levels, planes in (LEVELS[channels % 8], LEVELS[8 + channels % 8]):
            packed, scale, shift, wanted = problem(shape, levels, planes)
            dst = Guarded(*wanted.shape, dtype=torch.float32)
            assert kernel(args_of(packed, dst.tensor, scale, shift, shape, levels)) == OK
            assert torch.equal(dst.tensor, wanted), (channels, levels, planes)


@pytest.mark.parametrize("channels", [16, 70])
@pytest.mark.parametrize("name", NAMES)
def test_ranges_write_their_own_pixels(name: str, channels: int) -> None:
    """Lines 3 to 5 of 10, pixels 5 to 21 of 23: an odd number of them."""
    kernel, shape = variant("unpack", name), (2, 1, channels, 5, 23, (1, 2))
    packed, scale, shift, wanted = problem(shape, "coded", 2)
    dst = Guarded(*wanted.shape, dtype=torch.float32)
    args = args_of(packed, dst.tensor, scale, shift, shape, "coded")
    args.line_begin, args.line_end, args.pixel_begin, args.pixel_end = 3, 6, 5, 22
    assert kernel(args) == OK
    inside = torch.zeros(wanted.shape, dtype=torch.bool)
    inside.flatten(0, 1)[3:6, 5:22] = True
    assert torch.equal(dst.tensor[inside], wanted[inside])
    assert dst.untouched()[~inside].all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("field", "value"),
    [("planes", 0), ("planes", 9), ("groups", 0), ("line_end", 6), ("pixel_end", 8), ("levels", 2), ("left", -1)],
)
def test_bad_shapes_are_refused(name: str, field: str, value: int) -> None:
    kernel, shape = variant("unpack", name), (1, 1, 64, 5, 7, (0, 0))
    packed, scale, shift, wanted = problem(shape, "coded", 2)
    dst = Guarded(*wanted.shape, dtype=torch.float32)
    args = args_of(packed, dst.tensor, scale, shift, shape, "coded")
    setattr(args, field, value)
    assert kernel(args) == BAD_SHAPE
    assert dst.untouched().all()
