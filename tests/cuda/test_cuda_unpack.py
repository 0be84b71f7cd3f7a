"""The text of the CUDA unpack and pool kernels, run on the CPU: every value and every bit, and nothing beside them."""

from __future__ import annotations

import pytest
import torch
from emulated_cuda import call
from kernel_abi import BAD_SHAPE, OK, UNPACK, Guarded, P, structure
from test_cuda_pack import SHAPES
from test_pack import LEVELS, levels_of

from abcfx.ops.kernel_pack import pack_image
from abcfx.ops.kernel_pool import max_pool_bits
from abcfx.ops.kernel_unpack import unpack_image

POOL = structure(
    "abcfx_pool_args",
    "src dst levels planes images height width words pad_h pad_w kernel_h kernel_w stride_h stride_w top left out_h "
    "out_w out_pad_h out_pad_w line_begin line_end",
    dict.fromkeys("src dst".split(), P),
)
WINDOWS = [((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 3), (1, 0)), ((1, 1), (2, 1), (0, 0)), ((3, 3), (2, 2), (1, 1))]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values(shape: tuple) -> None:
    images, groups, channels, h, w, pad = shape
    x = torch.randn(images, groups * channels, h, w)
    for levels, planes in LEVELS:
        scale, shift = (t + torch.rand_like(t) / 100 for t in levels_of(levels, planes))  # two roundings are not one
        bits = pack_image(x, scale, shift, planes, levels, groups, pad)
        wanted = unpack_image(bits, scale, shift, levels, channels, groups, pad).permute(0, 2, 3, 1)
        dst = Guarded(*wanted.shape, dtype=torch.float32)
        args = UNPACK(
            src=bits.data_ptr(), dst=dst.tensor.data_ptr(), scale=scale.data_ptr(), shift=shift.data_ptr(),
            levels=int(levels == "thermometer"), planes=planes, images=images, channels=channels, height=h, width=w,
            top=pad[0], left=pad[1], bottom=pad[0], right=pad[1], groups=groups,
        )  # fmt: skip
        assert call("abcfx_cuda_unpack", args, None) == OK
        assert torch.equal(dst.tensor, wanted), (levels, planes)
        assert dst.walls_intact()
        for field, value in (("planes", 9), ("levels", 2), ("groups", 0), ("top", -1)):
            kept = getattr(args, field)
            setattr(args, field, value)
            assert call("abcfx_cuda_unpack", args, None) == BAD_SHAPE, field
            setattr(args, field, kept)


@pytest.mark.parametrize("window", WINDOWS, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_maxima(shape: tuple, window: tuple) -> None:
    images, groups, channels, h, w, pad = shape
    kernel, stride, padding = window
    x = torch.randn(images, groups * channels, h, w)
    for levels, planes in LEVELS:
        bits = pack_image(x, *levels_of(levels, planes), planes, levels, groups, pad)
        wanted = max_pool_bits(bits, levels, kernel, stride, padding, pad, (2, 1))
        dst = Guarded(*wanted.shape, dtype=torch.int64)
        args = POOL(
            src=bits.data_ptr(), dst=dst.tensor.data_ptr(), levels=int(levels == "thermometer"), planes=planes,
            images=images, height=h, width=w, words=bits.shape[-1], pad_h=pad[0], pad_w=pad[1], kernel_h=kernel[0],
            kernel_w=kernel[1], stride_h=stride[0], stride_w=stride[1], top=padding[0], left=padding[1],
            out_h=wanted.shape[1] - 4, out_w=wanted.shape[3] - 2, out_pad_h=2, out_pad_w=1,
        )  # fmt: skip
        assert call("abcfx_cuda_pool", args, None) == OK
        assert torch.equal(dst.tensor, wanted), (levels, planes)
        assert dst.walls_intact()
        for field, value in (("planes", 0), ("levels", 2), ("stride_w", 0), ("out_h", 99), ("top", 3)):
            kept = getattr(args, field)
            setattr(args, field, value)
            assert call("abcfx_cuda_pool", args, None) == BAD_SHAPE, field
            setattr(args, field, kept)
