"""Runs as a program: abc_k ops through the CUDA binding and the emulated kernels, against the pure-torch references.

Its argument is a library of csrc/binding/cuda_*.cpp built for CPU tensors (test_cuda_binding.py). Loading it replaces
the CPU kernels of these ops in the whole process, which is why this is a process of its own. Prints one line a case.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_conv, kernel_emit, kernel_linear, kernel_pack, kernel_weights
from abcfx.ops.kernel_pack import NO_LIMIT
from abcfx.ops.kernel_weights import CUDA_LANES, packed_dtype, packed_shape

k = torch.ops.abc_k
# name: channels a group, groups, outputs, kernel, stride, padding, dilation, image, M, N
CONVOLUTIONS = {
    "3x3": (64, 1, 24, (3, 3), (1, 1), (1, 1), (1, 1), (2, 5, 6), 2, 2),
    "strided": (70, 1, 9, (3, 2), (2, 3), (1, 0), (2, 1), (1, 9, 8), 1, 3),
    "groups": (16, 3, 12, (3, 3), (1, 2), (2, 2), (2, 2), (2, 6, 5), 2, 1),
    "pointwise": (130, 2, 10, (1, 1), (1, 1), (0, 0), (1, 1), (2, 3, 4), 3, 2),
    "all padding": (32, 1, 8, (5, 5), (1, 1), (4, 4), (1, 1), (1, 3, 3), 1, 2),
}
LINEAR = {
    "one row": (1, 200, 40, 2, 2),
    "rows": (70, 65, 33, 1, 3),
    "deep": (3, 1300, 8, 3, 1),
}  # rows, depth, outputs, M, N


def levels_of(name: str, planes: int) -> tuple[Tensor, Tensor]:
    """Powers of two, so that every f32 sum is exact in any order."""
    if name == "coded":
        return torch.tensor([0.5]), torch.tensor([-1.0])
    return 2.0 ** torch.randint(-1, 2, (planes,)), torch.randint(-2, 3, (planes,)) / 4


def weights_of(m: int, outputs: int, taps: int, channels: int, groups: int) -> tuple[Tensor, ...]:
    bases = torch.randint(0, 2, (m, outputs, taps, channels), dtype=torch.int8) * 2 - 1
    alpha = 2.0 ** torch.randint(-2, 2, (m, outputs))
    packed = k.pack_weights(bases, groups, CUDA_LANES)
    assert packed.shape == packed_shape(m, outputs, taps, channels, groups, CUDA_LANES)
    assert packed.dtype == packed_dtype(CUDA_LANES)
    assert torch.equal(packed, kernel_weights.pack_weights(bases, groups, CUDA_LANES)), "pack_weights"
    tap_sums = (bases.sum(-1) * alpha.unsqueeze(-1)).sum(0)
    return packed, alpha, tap_sums, torch.randint(-8, 9, (outputs,)).float()


def check_convolution(name: str, levels: str) -> None:
    channels, groups, outputs, kernel, stride, padding, dilation, (n, h, w), m, planes = CONVOLUTIONS[name]
    scale, shift = levels_of(levels, planes)
    x = torch.randint(-8, 9, (n, channels * groups, h, w)) / 4
    bits = k.pack_image(x, scale, shift, planes, levels, groups, padding)
    assert torch.equal(bits, kernel_pack.pack_image(x, scale, shift, planes, levels, groups, padding)), "pack_image"
    last = x.bfloat16().contiguous(memory_format=torch.channels_last)
    assert torch.equal(bits, k.pack_image(last, scale, shift, planes, levels, groups, padding)), "channels last"
    *weights, bias = weights_of(m, outputs, kernel[0] * kernel[1], channels, groups)
    for b in (None, bias):
        rest = (b, scale, shift, levels, channels, kernel, stride, padding, dilation, groups)
        y, wanted = k.conv2d(bits, *weights, *rest), kernel_conv.conv2d(bits, *weights, *rest)
        assert y.shape == wanted.shape
        assert torch.equal(y, wanted), "conv2d"
    gain, offset, slope = affine_of(outputs)
    next_levels = (*levels_of(levels, 2), 2, levels, groups, (1, 2))
    for tail in (
        (y, None, 0.0, 6.0, None, None, -1.0, NO_LIMIT, *next_levels),
        (None, slope, -NO_LIMIT, 9.0, gain, offset, -NO_LIMIT, 0.25, *next_levels),
        (y, slope, -4.0, NO_LIMIT, gain, offset, -NO_LIMIT, NO_LIMIT, *next_levels),
        (y, slope, -NO_LIMIT, NO_LIMIT, None, None, -NO_LIMIT, NO_LIMIT, None, None, 0, levels, 1, (0, 0)),
        (None, None, 0.0, 6.0, None, None, -NO_LIMIT, NO_LIMIT, None, None, 0, levels, 1, (0, 0)),
    ):
        same_for_each_keep("conv2d_emit", (bits, *weights, *rest, *tail))


def check_linear(name: str, levels: str) -> None:
    rows, depth, outputs, m, planes = LINEAR[name]
    scale, shift = levels_of(levels, planes)
    x = torch.randint(-8, 9, (rows, depth)) / 4
    gain, offset = 2.0 ** torch.randint(-1, 2, (depth,)), torch.randint(-4, 5, (depth,)) / 4
    bits = k.pack_rows(x.half(), scale, shift, planes, levels, gain, offset)
    assert torch.equal(bits, kernel_pack.pack_rows(x, scale, shift, planes, levels, gain, offset)), "pack_rows"
    *weights, bias = weights_of(m, outputs, 1, depth, 1)
    arguments = (bits, *weights, bias, scale, shift, levels, depth)
    assert torch.equal(k.linear(*arguments), kernel_linear.linear(*arguments)), "linear"
    gain, offset, slope = affine_of(outputs)
    residual = torch.randint(-8, 9, (rows, outputs)).float()
    same_for_each_keep(
        "linear_emit", (*arguments, residual, slope, 0.0, 9.0, gain, offset, 0.0, 4.0, scale, shift, planes, levels)
    )


def affine_of(channels: int) -> tuple[Tensor, ...]:
    """(gain, offset, slope), exact in any order."""
    gain, slope = (2.0 ** torch.randint(-2, 2, (channels,)) for _ in range(2))
    return gain, torch.randint(-4, 5, (channels,)) / 4, slope


def same_for_each_keep(name: str, arguments: tuple) -> None:
    """The op and its pure-torch reference, with and without floats; what is not wanted is empty in both."""
    for keep in (True, False):
        wanted = getattr(kernel_emit, name)(*arguments, keep)
        for got, other in zip(getattr(k, name)(*arguments, keep), wanted, strict=True):
            assert got.shape == other.shape, (name, keep)
            assert torch.equal(got, other), (name, keep)


def check_refusals() -> None:
    def said(call) -> str:
        try:
            call()
        except RuntimeError as error:
            return str(error)
        return "no error"

    bases = torch.ones(1, 8, 1, 64, dtype=torch.int8)
    assert "lanes must be 1 on a CUDA device (a whole reduction contiguous), got 8" in said(
        lambda: k.pack_weights(bases, 1, 8)
    )
    x, (scale, shift) = torch.randn(4, 64), levels_of("coded", 1)
    bits = k.pack_rows(x, scale, shift, 1, "coded")
    packed, alpha, tap_sums, bias = weights_of(1, 8, 1, 64, 1)
    wrong = packed.view(1, 8, 1, 1)
    assert "weight_bits must have shape [1, 1, 8, 1], got [1, 8, 1, 1]" in said(
        lambda: k.linear(bits, wrong, alpha, tap_sums, bias, scale, shift, "coded", 64)
    )
    assert "levels must be 'coded' or 'thermometer', got 'x'" in said(lambda: k.pack_rows(x, scale, shift, 1, "x"))
    wide = k.pack_image(torch.randn(1, 64, 1, 40), scale, shift, 1, "coded", 1, (0, 0))
    packed, alpha, tap_sums, bias = weights_of(1, 8, 33, 64, 1)
    one = ((1, 33), (1, 1), (0, 0), (1, 1), 1)
    assert "a window of 33 taps along its width is beyond the CUDA kernels, which take 32" in said(
        lambda: k.conv2d(wide, packed, alpha, tap_sums, bias, scale, shift, "coded", 64, *one)
    )


def main() -> None:
    torch.manual_seed(0)
    torch.ops.load_library(sys.argv[1])
    for levels in ("coded", "thermometer"):
        for name in CONVOLUTIONS:
            check_convolution(name, levels)
            print("conv2d", name, levels)
        for name in LINEAR:
            check_linear(name, levels)
            print("linear", name, levels)
    check_refusals()
    print("refusals")


if __name__ == "__main__":
    main()
