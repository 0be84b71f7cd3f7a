"""abc_k::max_pool_bits: exactly the planes of the pooled floats."""

from __future__ import annotations

import pytest
import torch
from test_kernel_ops import Levels
from torch.nn.functional import max_pool2d

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_pool, library

k = torch.ops.abc_k
pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")

WINDOWS = {  # kernel, stride, padding
    "2x2": ((2, 2), (2, 2), (0, 0)),
    "stem of a ResNet": ((3, 3), (2, 2), (1, 1)),
    "overlapping, uneven": ((3, 2), (1, 3), (1, 0)),
    "one pixel": ((1, 1), (1, 1), (0, 0)),
    "the whole image": ((7, 9), (7, 9), (0, 0)),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("channels", [1, 64, 70])
@pytest.mark.parametrize("planes", [1, 2, 3, 8])
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_equals_pooling_the_floats_first(levels: str, planes: int, channels: int, window: str) -> None:
    kernel, stride, padding = WINDOWS[window]
    at = Levels.random(levels, planes)
    x = torch.randn(2, channels, 7, 9) * 2
    bits = k.pack_image(x, at.scale, at.shift, planes, levels, 1, (1, 2))
    arguments = (bits, levels, kernel, stride, padding, (1, 2), (2, 1))
    wanted = k.pack_image(max_pool2d(x, kernel, stride, padding), at.scale, at.shift, planes, levels, 1, (2, 1))
    assert torch.equal(k.max_pool_bits(*arguments), wanted)
    assert torch.equal(kernel_pool.max_pool_bits(*arguments), wanted)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(threads: int) -> None:
    at = Levels.random("coded", 2)
    x = torch.randn(3, 200, 40, 40)
    bits = k.pack_image(x, at.scale, at.shift, 2, "coded", 1, (0, 0))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        got = k.max_pool_bits(bits, "coded", (3, 3), (2, 2), (1, 1), (0, 0), (1, 1))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(got, k.pack_image(max_pool2d(x, 3, 2, 1), at.scale, at.shift, 2, "coded", 1, (1, 1)))


def test_bad_windows_are_named() -> None:
    bits = torch.zeros(1, 4, 2, 4, 1, dtype=torch.int64)
    with pytest.raises(RuntimeError, match="an image of 4 x 4 pixels is smaller than the window"):
        k.max_pool_bits(bits, "coded", (5, 5), (1, 1), (0, 0), (0, 0), (0, 0))
    with pytest.raises(RuntimeError, match="at most half of the kernel"):
        k.max_pool_bits(bits, "coded", (2, 2), (1, 1), (2, 0), (0, 0), (0, 0))
    with pytest.raises(RuntimeError, match="levels must be"):
        k.max_pool_bits(bits, "some", (2, 2), (1, 1), (0, 0), (0, 0), (0, 0))
