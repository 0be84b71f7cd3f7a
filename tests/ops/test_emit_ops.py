"""abc_k::linear_emit, conv2d_emit: the product, then elementwise ops and a pack, with exactly the same numbers."""

from __future__ import annotations

import math

import pytest
import torch
from test_kernel_ops import CONVOLUTIONS, Levels, Weights, conv_arguments, linear_arguments
from torch import Tensor

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_emit, library
from abcfx.ops.kernel_pack import NO_LIMIT
from abcfx.ops.kernel_weights import METHODS, lanes_of

k = torch.ops.abc_k
NONE = (-NO_LIMIT, NO_LIMIT)

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


def next_levels(name: str) -> Levels:
    return (
        Levels.random("thermometer", 3) if name == "thermometer" else Levels(name, torch.tensor([20.0]), torch.zeros(1))
    )


def expected(y: Tensor, residual, slope, clip, affine, next_clip) -> tuple[Tensor, Tensor]:
    """(y, what is packed): channels last in the shape, in separate torch ops."""
    y = y if residual is None else y + residual
    y = y if slope is None else torch.where(y > 0, y, y * slope)
    y = y.clamp(*clip) if clip != NONE else y
    normalized = y if affine is None else y * affine[0] + affine[1]
    return y, normalized.clamp(*next_clip) if next_clip != NONE else normalized


STEPS = {  # residual, slope, clip, affine, next clip
    "nothing": (False, False, NONE, False, NONE),
    "relu": (False, False, (0.0, NO_LIMIT), False, NONE),
    "residual, relu6": (True, False, (0.0, 6.0), False, NONE),
    "prelu": (False, True, NONE, False, NONE),
    "next batch norm": (True, False, NONE, True, NONE),
    "next batch norm and relu": (True, True, NONE, True, (0.0, NO_LIMIT)),
}


def epilogue(steps: str, y: Tensor) -> tuple[tuple, tuple]:
    """(arguments of the op up to next_high, those of `expected`)"""
    has_residual, has_slope, clip, has_affine, next_clip = STEPS[steps]
    outputs = y.shape[-1]
    residual = torch.randn(y.shape) * 30 if has_residual else None
    slope = torch.randn(outputs) if has_slope else None
    affine = (torch.randn(outputs), torch.randn(outputs)) if has_affine else None
    gain, offset = affine or (None, None)
    return (residual, slope, *clip, gain, offset, *next_clip), (residual, slope, clip, affine, next_clip)


@pytest.mark.parametrize("keep", [True, False], ids=["keep", "bits only"])
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution_emits_what_separate_ops_make(name: str, steps: str, levels: str, keep: bool) -> None:
    _, _, arguments = conv_arguments(name, Levels.random("coded", 2), 2, 2)
    y = k.conv2d(*arguments)
    given, wanted = epilogue(steps, y)
    at, groups = next_levels(levels), 3 if y.shape[-1] % 3 == 0 else 1
    tail = (at.scale, at.shift, 3, levels, groups, (1, 2), keep)
    got = k.conv2d_emit(*arguments, *given, *tail)
    kept, packed = expected(y, *wanted)
    planes = k.pack_image(packed.permute(0, 3, 1, 2), at.scale, at.shift, 3, levels, groups, (1, 2))
    assert torch.equal(got[1], planes)
    assert torch.equal(got[0], kept) if keep else got[0].numel() == 0
    reference = kernel_emit.conv2d_emit(*arguments, *given, *tail)
    assert reference[1].shape == planes.shape
    torch.testing.assert_close(got[0], reference[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rows", [1, 5, 200])
def test_linear_emits_what_separate_ops_make(rows: int, steps: str) -> None:
    _, _, arguments = linear_arguments(Levels.random("coded", 2), 2, 2, rows=rows, outputs=75)
    y = k.linear(*arguments)
    given, wanted = epilogue(steps, y)
    at = next_levels("coded")
    kept, packed = expected(y, *wanted)
    for keep in (True, False):
        got = k.linear_emit(*arguments, *given, at.scale, at.shift, 2, "coded", keep)
        assert torch.equal(got[1], k.pack_rows(packed, at.scale, at.shift, 2, "coded"))
        assert torch.equal(got[0], kept) if keep else got[0].numel() == 0
    got = k.linear_emit(*arguments, *given, None, None, 0, "coded", True)
    assert torch.equal(got[0], kept)
    assert got[1].numel() == 0


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("shape", [(1, 56, 64), (2, 28, 128), (1, 7, 256), (3, 1, 64)], ids=str)
def test_tiles_and_threads_do_not_change_the_result(shape: tuple, threads: int, method: str) -> None:
    """Sizes that are cut into tiles, and small ones that are not; lines of one pixel too."""
    images, size, channels = shape
    at = Levels("coded", torch.tensor([0.7]), torch.tensor([-1.0]))
    weights = Weights.random(2, channels, 9, channels)
    packed = k.pack_weights(weights.bases, 1, lanes_of(method))
    x, residual = torch.randn(images, channels, size, size), torch.randn(images, size, size, channels) * 30
    bits = k.pack_image(x, at.scale, at.shift, 2, "coded", 1, (1, 1))
    layer = (bits, packed, weights.alpha, weights.tap_sums, None, at.scale, at.shift, "coded", channels)
    geometry = ((3, 3), (1, 1), (1, 1), (1, 1), 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        y = (k.conv2d(*layer, *geometry) + residual).relu()
        planes = k.pack_image(y.permute(0, 3, 1, 2), at.scale, at.shift, 2, "coded", 1, (1, 1))
        tail = (None, None, *NONE, at.scale, at.shift, 2, "coded", 1, (1, 1))
        for keep in (True, False):
            got = k.conv2d_emit(*layer, *geometry, residual, None, 0.0, NO_LIMIT, *tail, keep)
            assert torch.equal(got[1], planes)
            assert torch.equal(got[0], y) if keep else got[0].numel() == 0
    finally:
        torch.set_num_threads(before)


def test_nan_and_infinity_pass_the_clips() -> None:
    _, _, arguments = linear_arguments(Levels.random("coded", 2), 1, 2, rows=2, outputs=70)
    residual = torch.full((2, 70), math.nan)
    residual[1] = math.inf
    at = next_levels("coded")
    tail = (None, None, *NONE, at.scale, at.shift, 2, "coded", True)
    y, planes = k.linear_emit(*arguments, residual, None, 0.0, NO_LIMIT, *tail)
    assert y[0].isnan().all()
    assert (y[1] == math.inf).all()
    assert torch.equal(planes, k.pack_rows(y, at.scale, at.shift, 2, "coded"))


def test_bad_operands_are_named() -> None:
    _, _, arguments = linear_arguments(Levels.random("coded", 2), 1, 2, rows=4, outputs=8)
    rest = (None, *NONE, None, None, *NONE)
    with pytest.raises(RuntimeError, match=r"linear_emit: residual must have shape \[4, 8\], got \[4, 9\]"):
        k.linear_emit(*arguments, torch.zeros(4, 9), *rest, None, None, 0, "coded", True)
    with pytest.raises(RuntimeError, match="next_scale, next_shift and next_planes go together, got 2 planes"):
        k.linear_emit(*arguments, None, *rest, None, None, 2, "coded", True)
    with pytest.raises(RuntimeError, match="gain and offset go together"):
        k.linear_emit(*arguments, None, None, *NONE, torch.ones(8), None, *NONE, None, None, 0, "coded", True)
