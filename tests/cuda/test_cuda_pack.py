"""The text of the CUDA pack, run on the CPU: every bit against the reference in plain torch, and the popcounts."""

from __future__ import annotations

import ctypes

import pytest
import torch
from emulated_cuda import call
from kernel_abi import BAD_SHAPE, OK, Guarded
from test_pack import DTYPES, LAYOUTS, LEVELS, affine_of, args_of, levels_of, values_of
from torch import Tensor

from abcfx.ops.kernel_pack import pack_image

SHAPES = [
    (2, 1, 1, 3, 5, (0, 0)), (1, 2, 63, 3, 16, (2, 1)), (2, 1, 64, 7, 7, (1, 1)), (1, 3, 65, 2, 9, (0, 1)),
    (1, 1, 200, 4, 4, (1, 1)),
]  # fmt: skip


def popcounts(planes: Tensor, groups: int) -> Tensor:
    bits = planes.unflatten(-1, (groups, -1))[..., None] >> torch.arange(64) & 1
    return bits.sum((-1, -2)).int()


def check(x: Tensor, levels: str, planes: int, groups: int, pad: tuple, affine: tuple | None) -> None:
    scale, shift = levels_of(levels, planes)
    wanted = pack_image(x, scale, shift, planes, levels, groups, pad, *(affine or ()))
    dst = Guarded(*wanted.shape, dtype=torch.int64)
    counts = Guarded(*wanted.shape[:-1], groups, dtype=torch.int32)
    args = args_of(x, dst.tensor, scale, shift, levels, planes, groups, pad, affine)
    assert call("abcfx_cuda_pack", args, counts.tensor, None) == OK
    assert torch.equal(dst.tensor, wanted), (levels, planes)
    assert torch.equal(counts.tensor, popcounts(wanted, groups))
    assert dst.walls_intact()
    assert counts.walls_intact()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc", "every other pixel", "first channels of more"])
def test_equal_to_the_torch_reference(layout: str, shape: tuple, dtype: torch.dtype) -> None:
    assert layout in LAYOUTS
    x = values_of(layout, shape, dtype)
    for levels, planes in LEVELS[::2]:
        check(x, levels, planes, shape[1], shape[-1], None)
        check(x, levels, planes, shape[1], shape[-1], affine_of(x))


def test_bad_shapes_are_refused() -> None:
    x, dst = torch.zeros(1, 4, 2, 2), torch.zeros(4, dtype=torch.int64)
    scale, shift = levels_of("coded", 1)
    for field, value in [("planes", 9), ("groups", 3), ("levels", 2), ("dtype", 3), ("top", -1)]:
        args = args_of(x, dst, scale, shift, "coded", 1, 1, (0, 0))
        assert isinstance(args, ctypes.Structure)
        setattr(args, field, value)
        assert call("abcfx_cuda_pack", args, None, None) == BAD_SHAPE
