"""The text of the CUDA rounding, run on the CPU: the codes of the CPU kernels for a seed, and their planes."""

from __future__ import annotations

import pytest
import torch
from emulated_cuda import call
from kernel_abi import BAD_SHAPE, OK, Guarded
from test_cuda_pack import popcounts
from test_pack import args_of
from test_round import SEED, problem
from torch import Tensor

from abcfx.ops.gradients import code_levels
from abcfx.ops.kernel_pack import pack_image

SHAPES = [(1, 1, 1, 1), (2, 3, 5, 4), (2, 33, 3, 2), (1, 70, 2, 3)]
LAYOUTS = ["nchw", "nhwc", "every other pixel", "broadcast channels"]


def seeds(on_device: bool) -> Tensor | None:
    return torch.tensor([SEED]) if on_device else None


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("gains", "planes", "on_device"), [(1, 1, True), (2, 4, False), (3, 8, True)])
def test_codes(layout: str, shape: tuple[int, ...], gains: int, planes: int, on_device: bool) -> None:
    args, dst, wanted, _alive = problem(shape, layout, gains, planes)
    if on_device:
        args.seed = 1  # not read
    assert call("abcfx_cuda_round", args, seeds(on_device), None) == OK
    assert torch.equal(dst.tensor, wanted)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("gains", "planes", "on_device"), [(1, 1, False), (2, 4, True), (3, 8, False)])
def test_planes(layout: str, shape: tuple[int, ...], gains: int, planes: int, on_device: bool) -> None:
    args, _dst, codes, _alive = problem(shape, layout, gains, planes)
    args.dst = None
    codes = codes.permute(0, 3, 1, 2)
    scale, shift = code_levels(planes, codes)
    wanted = pack_image(codes, scale, shift, planes, "coded", 1, (1, 2))
    bits = Guarded(*wanted.shape, dtype=torch.int64).tensor
    counts = Guarded(*wanted.shape[:-1], 1, dtype=torch.int32).tensor
    image = args_of(codes, bits, scale, shift, "coded", planes, 1, (1, 2))
    image.src = image.scale = image.shift = None
    assert call("abcfx_cuda_round_pack", args, seeds(on_device), image, counts, None) == OK
    assert torch.equal(bits, wanted)
    assert torch.equal(counts, popcounts(wanted, 1))


def test_a_nan_gives_the_smallest_code() -> None:
    args, dst, _wanted, (src, *_alive) = problem((1, 3, 1, 2), "nhwc", 1, 4)
    src.fill_(torch.nan)
    assert call("abcfx_cuda_round", args, None, None) == OK
    assert (dst.tensor == -8).all()


@pytest.mark.parametrize(
    ("field", "value"), [("planes", 0), ("planes", 9), ("gains", 0), ("width", 5), ("channels", 4)]
)
def test_bad_arguments_are_refused(field: str, value: int) -> None:
    args, _dst, codes, _alive = problem((2, 3, 5, 4), "nhwc", 1, 4)
    codes = codes.permute(0, 3, 1, 2)
    scale, shift = code_levels(4, codes)
    bits = Guarded(2, 5, 4, 4, 1, dtype=torch.int64)
    image = args_of(codes, bits.tensor, scale, shift, "coded", 4, 1, (0, 0))
    setattr(args, field, value)
    assert call("abcfx_cuda_round_pack", args, None, image, None, None) == BAD_SHAPE
    assert bits.untouched().all()
