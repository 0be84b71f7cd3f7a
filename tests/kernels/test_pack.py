"""Every variant of pack/kernels.inc, bit for bit against the reference in plain torch, on every kind of strides."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from kernel_abi import BAD_SHAPE, OK, PACK, RUNNABLE, Guarded, fenced, variant
from torch import Tensor

from abcfx.ops.kernel_pack import pack_image

LAYOUTS: dict[str, Callable[[int, int, int, int], Tensor]] = {
    "nchw": lambda n, c, h, w: torch.randn(n, c, h, w),
    "nhwc": lambda n, c, h, w: torch.randn(n, h, w, c).permute(0, 3, 1, 2),
    "every other pixel": lambda n, c, h, w: torch.randn(n, c, 2 * h, 2 * w)[:, :, ::2, 1::2],
    "every other channel": lambda n, c, h, w: torch.randn(n, h, w, 2 * c).permute(0, 3, 1, 2)[:, ::2],
    "width outermost": lambda n, c, h, w: torch.randn(w, c, h, n).permute(3, 1, 2, 0),
    "broadcast channels": lambda n, c, h, w: torch.randn(n, 1, h, w).expand(n, c, h, w),
}
SHAPES = [  # images, groups, channels of a group, height, width, (top = bottom, left = right)
    (2, 1, 1, 3, 5, (0, 0)), (1, 1, 3, 2, 17, (1, 2)), (1, 2, 63, 3, 16, (2, 1)), (2, 1, 64, 7, 7, (1, 1)),
    (1, 3, 65, 2, 33, (0, 1)), (1, 1, 127, 1, 9, (3, 0)), (1, 2, 200, 4, 4, (1, 1)), (1, 9, 1, 4, 8, (1, 1)),
]  # fmt: skip
SPECIAL = [float("nan"), -float("nan"), float("inf"), -float("inf"), -0.0, 0.0, 1e-45, -1e-45, 3.4e38, -3.4e38]


def levels_of(levels: str, planes: int) -> tuple[Tensor, Tensor]:
    """Steps and thresholds that random values hit exactly, so that ties are tested."""
    if levels == "coded":
        return torch.tensor([0.25]), torch.tensor([-0.5 if planes % 2 else 0.0])
    return torch.rand(planes) + 0.1, torch.randint(-2, 3, (planes,)) / 4


def values_of(layout: str, shape: tuple) -> Tensor:
    """Multiples of 1/8, half of them ties of the coded levels, with every special value strewn in."""
    n, groups, channels, h, w, _ = shape
    x = LAYOUTS[layout](n, groups * channels, h, w)
    x.copy_((x * 8).round() / 8) if 0 not in x.stride() else None
    flat = x if 0 not in x.stride() else x[:, :1]
    where = torch.randint(0, flat.numel(), (len(SPECIAL),))
    for index, value in zip(where.tolist(), SPECIAL, strict=True):
        position = tuple(int(i) for i in torch.unravel_index(torch.tensor(index), flat.shape))
        flat[position] = value
    return fenced(x)


def args_of(x: Tensor, dst: Tensor, scale: Tensor, shift: Tensor, levels: str, planes: int, groups: int, pad) -> PACK:
    n, c, h, w = x.shape
    return PACK(
        x.data_ptr(), dst.data_ptr(), scale.data_ptr(), shift.data_ptr(), int(levels == "thermometer"), planes,
        n, c, h, w, *x.stride(), pad[0], pad[1], pad[0], pad[1], groups, 0, n * (h + 2 * pad[0]), 0, w,
    )  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", RUNNABLE)
def test_equal_to_the_torch_reference(name: str, layout: str, shape: tuple) -> None:
    kernel = variant("pack", name)
    x, groups, pad = values_of(layout, shape), shape[1], shape[-1]
    for levels, planes in [("coded", 1), ("coded", 2), ("coded", 8), ("thermometer", 1), ("thermometer", 5)]:
        scale, shift = levels_of(levels, planes)
        wanted = pack_image(x, scale, shift, planes, levels, groups, pad)
        dst = Guarded(*wanted.shape, dtype=torch.int64)
        assert kernel(args_of(x, dst.tensor, scale, shift, levels, planes, groups, pad)) == OK
        assert torch.equal(dst.tensor, wanted), (levels, planes)
        assert dst.walls_intact()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_ranges_write_disjoint_words(name: str, layout: str) -> None:
    """Lines 3 to 5 of 14, pixels 5 to 20 of 23: nothing else is written; four quarters together are everything."""
    kernel, shape = variant("pack", name), (2, 1, 70, 5, 23, (1, 2))
    x = values_of(layout, shape)
    scale, shift = levels_of("coded", 2)
    wanted = pack_image(x, scale, shift, 2, "coded", 1, (1, 2))
    dst = Guarded(*wanted.shape, dtype=torch.int64)
    args = args_of(x, dst.tensor, scale, shift, "coded", 2, 1, (1, 2))
    args.line_begin, args.line_end, args.pixel_begin, args.pixel_end = 3, 6, 5, 21
    assert kernel(args) == OK
    inside = torch.zeros(wanted.shape, dtype=torch.bool)
    inside.flatten(0, 1)[3:6, :, 7:23] = True  # lines 3 to 5 hold pixels of image 0
    assert torch.equal(dst.tensor[inside], wanted[inside])
    assert dst.untouched()[~inside].all()
    for lines in ((0, 9), (9, 14)):
        for pixels in ((0, 4), (4, 23)):
            args.line_begin, args.line_end = lines
            args.pixel_begin, args.pixel_end = pixels
            assert kernel(args) == OK
    assert torch.equal(dst.tensor, wanted)


@pytest.mark.parametrize("name", RUNNABLE)
@pytest.mark.parametrize(
    ("field", "value"),
    [("planes", 0), ("planes", 9), ("groups", 3), ("line_end", 6), ("pixel_end", 8), ("levels", 2), ("top", -1)],
)
def test_bad_shapes_are_refused(name: str, field: str, value: int) -> None:
    kernel, x = variant("pack", name), torch.randn(1, 64, 5, 7)
    scale, shift = levels_of("coded", 2)
    dst = Guarded(1, 5, 2, 7, 1, dtype=torch.int64)
    args = args_of(x, dst.tensor, scale, shift, "coded", 2, 1, (0, 0))
    setattr(args, field, value)
    assert kernel(args) == BAD_SHAPE
    assert dst.untouched().all()
