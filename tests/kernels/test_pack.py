"""Every variant of pack/kernels.inc, bit for bit against the reference in plain torch, on every kind of strides."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from kernel_abi import BAD_SHAPE, OK, PACK, RUNNABLE, Guarded, fenced, runnable, variant
from torch import Tensor

from abcfx.ops.kernel_pack import NO_LIMIT, pack_image

LAYOUTS: dict[str, Callable[[Callable[..., Tensor], int, int, int, int], Tensor]] = {
    "nchw": lambda new, n, c, h, w: new(n, c, h, w),
    "nhwc": lambda new, n, c, h, w: new(n, h, w, c).permute(0, 3, 1, 2),
    "every other pixel": lambda new, n, c, h, w: new(n, c, 2 * h, 2 * w)[:, :, ::2, 1::2],
    "every other channel": lambda new, n, c, h, w: new(n, h, w, 2 * c).permute(0, 3, 1, 2)[:, ::2],
    "first channels of more": lambda new, n, c, h, w: new(n, h, w, c + 3).permute(0, 3, 1, 2)[:, :c],
    "window of more pixels": lambda new, n, c, h, w: new(n, c, h + 1, w + 2)[:, :, 1:, 2:],
    "width outermost": lambda new, n, c, h, w: new(w, c, h, n).permute(3, 1, 2, 0),
    "broadcast channels": lambda new, n, c, h, w: new(n, 1, h, w).expand(n, c, h, w),
}
SHAPES = [  # images, groups, channels of a group, height, width, (top = bottom, left = right)
    (2, 1, 1, 3, 5, (0, 0)), (1, 1, 3, 2, 17, (1, 2)), (1, 2, 63, 3, 16, (2, 1)), (2, 1, 64, 7, 7, (1, 1)),
    (1, 3, 65, 2, 33, (0, 1)), (1, 1, 127, 1, 9, (3, 0)), (1, 2, 200, 4, 4, (1, 1)), (1, 9, 1, 4, 8, (1, 1)),
    (2, 1, 16, 5, 13, (1, 1)), (1, 3, 16, 2, 9, (0, 0)), (1, 2, 8, 3, 11, (1, 0)), (1, 1, 48, 9, 8, (1, 1)),
    (1, 1, 24, 6, 31, (0, 0)), (1, 2, 32, 3, 7, (0, 2)), (2, 1, 128, 8, 12, (1, 1)), (1, 1, 72, 1, 100, (0, 0)),
    (2, 1, 0, 3, 4, (1, 1)), (1, 1, 5, 9, 30, (1, 1)), (1, 1, 16, 1, 300, (0, 0)), (1, 1, 70, 33, 8, (0, 1)),
]  # fmt: skip
LEVELS = [("coded", 1), ("coded", 2), ("coded", 3), ("coded", 4), ("coded", 8), ("thermometer", 1), ("thermometer", 2),
          ("thermometer", 5)]  # fmt: skip
LIMITS = [(0.0, NO_LIMIT), (-0.25, 0.625)]  # of the clip after an affine
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def special(dtype: torch.dtype) -> Tensor:
    """NaN of both signs, infinities, zeros, the smallest and the largest numbers."""
    info = torch.finfo(dtype)
    values = [float("nan"), float("inf"), 0.0, info.smallest_normal / 2, info.max]
    return torch.tensor([sign * value for value in values for sign in (1, -1)], dtype=dtype)


def levels_of(levels: str, planes: int) -> tuple[Tensor, Tensor]:
    """Steps and thresholds that random values hit exactly, so that ties are tested."""
    if levels == "coded":
        return torch.tensor([0.25]), torch.tensor([-0.5 if planes % 2 else 0.0])
    return torch.rand(planes) + 0.1, torch.randint(-2, 3, (planes,)) / 4


def values_of(layout: str, shape: tuple, dtype: torch.dtype) -> Tensor:
    """Multiples of 1/8, half of them ties of the coded levels, with every special value strewn in."""
    n, groups, channels, h, w, _ = shape
    x = LAYOUTS[layout](partial(torch.randn, dtype=dtype), n, groups * channels, h, w)
    flat = x if 0 not in x.stride() else x[:, :1]
    flat.copy_((flat * 8).round() / 8)
    for value, index in zip(special(dtype), torch.randint(0, max(flat.numel(), 1), (10,)), strict=True):
        if flat.numel():
            flat[tuple(int(i) for i in torch.unravel_index(index, flat.shape))] = value
    return fenced(x) if x.numel() else x


def affine_of(x: Tensor) -> tuple[Tensor, Tensor]:
    """Gains of both signs, and offsets that bring the first value of each channel to a tie or a threshold in two
    roundings: with one, by a fused multiply-add, it would lie beside it.
    """
    gain = torch.randn(x.shape[1])
    product = (x[0, :, 0, 0].float() * gain).nan_to_num(0, 0, 0)
    return fenced(gain), fenced(torch.randint(-2, 3, gain.shape) / 8 - product)


def args_of(
    x: Tensor, dst: Tensor, scale: Tensor, shift: Tensor, levels: str, planes: int, groups: int, pad: tuple[int, int],
    affine: tuple | None = None,
) -> PACK:  # fmt: skip
    n, c, h, w = x.shape
    gain, offset = (None, None) if affine is None else (t.data_ptr() for t in affine[:2])
    limits = affine[2:] if affine is not None else ()
    return PACK(
        x.data_ptr(), dst.data_ptr(), scale.data_ptr(), shift.data_ptr(), gain, offset, DTYPES[x.dtype],
        int(levels == "thermometer"), planes, n, c, h, w, *x.stride(), pad[0], pad[1], pad[0], pad[1], groups,
        0, n * (h + 2 * pad[0]), 0, w, *limits,
    )  # fmt: skip


def check(x: Tensor, levels: str, planes: int, groups: int, pad: tuple, affine=None) -> None:
    """Every variant against one run of the reference, which takes most of the time."""
    scale, shift = levels_of(levels, planes)
    wanted = pack_image(x, scale, shift, planes, levels, groups, pad, *(affine or ()))
    for name, kernel in runnable("pack").items():
        dst = Guarded(*wanted.shape, dtype=torch.int64)
        assert kernel(args_of(x, dst.tensor, scale, shift, levels, planes, groups, pad, affine)) == OK, name
        assert torch.equal(dst.tensor, wanted), (name, levels, planes)
        assert dst.walls_intact(), (name, levels, planes)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_equal_to_the_torch_reference(layout: str, shape: tuple, dtype: torch.dtype) -> None:
    x, groups, pad = values_of(layout, shape, dtype), shape[1], shape[-1]
    for levels, planes in LEVELS:
        check(x, levels, planes, groups, pad)
    if x.numel():
        for levels, planes in LEVELS:
            check(x, levels, planes, groups, pad, affine_of(x))
            for limits in LIMITS:
                check(x, levels, planes, groups, pad, (*affine_of(x), *limits))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_every_number_of_channels(layout: str, dtype: torch.dtype) -> None:
    for channels in range(1, 131):
        x = values_of(layout, (1, 1, channels, 2, 1 + channels % 37, (0, 1)), dtype)
        check(x, "coded", 1 + channels % 4, 1, (0, 1), affine_of(x) if channels % 3 == 0 else None)
        check(x, "thermometer", 1 + channels % 3, 1, (0, 1))


COARSE = [  # scales and shifts whose thresholds no number of 16 bits is, and the ends of f32
    (0.3, 0.1), (0.013, -7.7), (1e-3, 100.1), (5e4, -1e5), (1e-30, 0.0), (1e30, 3e30), (1e-42, 0.0), (3e38, 0.0),
    (float("inf"), 0.0), (1.0, float("inf")), (1.0, float("-inf")), (1.0, float("nan")), (float("nan"), 0.0),
    (-0.5, 0.25), (0.0, 0.5),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", RUNNABLE)
def test_every_value_of_16_bits(name: str, dtype: torch.dtype) -> None:
    """All 65536 of them, also where a threshold is beyond every one."""
    kernel = variant("pack", name)
    x = torch.arange(-(2**15), 2**15, dtype=torch.int16).view(dtype).view(1, 64, 1, -1)
    for scale, shift in COARSE:
        for planes in (1, 2, 3):
            compare(kernel, x, torch.tensor([scale]), torch.tensor([shift]), "coded", planes)
            compare(kernel, x, torch.full((planes,), scale), torch.linspace(shift, 0.7, planes), "thermometer", planes)


@pytest.mark.parametrize("name", RUNNABLE)
def test_f32_next_to_each_threshold(name: str) -> None:
    """The numbers just below and above every threshold: where arithmetic of another order would differ."""
    kernel = variant("pack", name)
    for scale, shift in [*COARSE, *(torch.randn(60, 2).exp() - torch.tensor([0.0, 1.0])).tolist()]:
        steps = shift + (torch.arange(-1, 9, dtype=torch.float32)[:, None] - 0.5) * scale
        near = (steps.view(torch.int32) + torch.arange(-16, 16, dtype=torch.int32)).view(torch.float32)
        x = near.reshape(1, 64, 1, -1)
        for planes in (1, 2, 3):
            compare(kernel, x, torch.tensor([scale]), torch.tensor([shift]), "coded", planes)


def compare(kernel: Callable, x: Tensor, scale: Tensor, shift: Tensor, levels: str, planes: int) -> None:
    wanted = pack_image(x, scale, shift, planes, levels, 1, (0, 0))
    dst = Guarded(*wanted.shape, dtype=torch.int64)
    assert kernel(args_of(x, dst.tensor, scale, shift, levels, planes, 1, (0, 0))) == OK
    assert torch.equal(dst.tensor, wanted), (scale, shift, levels, planes)


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_ranges_write_disjoint_words(name: str, layout: str) -> None:
    """Lines 3 to 5 of 14, pixels 5 to 20 of 23: nothing else is written; four quarters together are everything."""
    kernel, shape = variant("pack", name), (2, 1, 70, 5, 23, (1, 2))
    x = values_of(layout, shape, torch.float32)
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
    [
        ("planes", 0),
        ("planes", 9),
        ("groups", 3),
        ("line_end", 6),
        ("pixel_end", 8),
        ("levels", 2),
        ("top", -1),
        ("dtype", 3),
        ("gain", 1 << 12),
    ],
)
def test_bad_shapes_are_refused(name: str, field: str, value: int) -> None:
    kernel, x = variant("pack", name), torch.randn(1, 64, 5, 7)
    scale, shift = levels_of("coded", 2)
    dst = Guarded(1, 5, 2, 7, 1, dtype=torch.int64)
    args = args_of(x, dst.tensor, scale, shift, "coded", 2, 1, (0, 0))
    setattr(args, field, value)
    assert kernel(args) == BAD_SHAPE
    assert dst.untouched().all()
