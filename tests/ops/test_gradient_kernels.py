"""abc_k::round_gradient and abc_k::pack_positions: the compiled forms equal the references bit for bit."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import abcfx
from abcfx.ops import kernel_gradients, kernel_pack, kernel_positions, library
from abcfx.ops.gradients import code_levels
from abcfx.ops.kernel_weights import METHODS, lanes_of
from abcfx.quant import gradients

k = torch.ops.abc_k
pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")

SEED = torch.tensor([-(2**40) + 12345])
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 4), (3, 16, 7, 7), (2, 65, 9, 6), (1, 130, 3, 17), (0, 8, 4, 4), (2, 0, 3, 3)]


def layouts(grad: Tensor) -> dict[str, Tensor]:
    return {
        "channels last": grad.contiguous(memory_format=torch.channels_last),
        "contiguous": grad.contiguous(),
        "transposed": grad.transpose(2, 3).contiguous().transpose(2, 3),
        "every other": grad.repeat_interleave(2, 3)[..., ::2],
    }


def same_codes(grad: Tensor, gain: Tensor, inverse: Tensor, planes: int) -> None:
    arguments = (gain, inverse, SEED, planes)
    wanted = kernel_gradients.round_gradient(grad, *arguments)
    got = k.round_gradient(grad, *arguments)
    assert got.stride() == wanted.stride()
    assert torch.equal(got, wanted)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("planes", [1, 2, 4, 8])
def test_codes_are_those_of_the_reference(shape: tuple[int, ...], planes: int) -> None:
    gain, inverse = torch.randn(2, shape[1]), torch.rand(shape[0]) * 2**planes
    for grad in layouts(torch.randn(shape)).values():
        same_codes(grad, gain, inverse, planes)
        same_codes(grad, gain[:1], torch.tensor([2.5]), planes)


@pytest.mark.parametrize("channels", [1, 7, 8, 24, 70])
@pytest.mark.parametrize("transposed", [False, True])
def test_codes_of_rows(channels: int, transposed: bool) -> None:
    grad = torch.randn(channels, 19).t() if transposed else torch.randn(19, channels)
    same_codes(grad, torch.rand(3, channels), torch.rand(19) * 8, 4)
    same_codes(grad, torch.rand(1, channels), torch.ones(1), 4)


@pytest.mark.parametrize("planes", [1, 4])
def test_special_values_are_the_smallest_or_the_nearest_code(planes: int) -> None:
    low, high = gradients.code_range(planes)
    inf = float("inf")
    grad = torch.tensor([[float("nan"), inf, -inf, 1e30, -1e30, 0.0, -0.0]])
    gain, inverse = torch.ones(1, 7), torch.ones(1)
    same_codes(grad, gain, inverse, planes)
    assert k.round_gradient(grad, gain, inverse, SEED, planes)[0, :5].tolist() == [low, high, low, high, low]


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_codes_or_bits(threads: int) -> None:
    grad, gain = torch.randn(8, 70, 20, 20), torch.rand(2, 70)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        same_codes(grad, gain, torch.rand(8) * 4, 4)
        same_positions("3x3", 70, 2, lanes_of("lut"))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("planes", [1, 2, 5, 8])
def test_the_pack_kernels_keep_codes_as_they_are(planes: int) -> None:
    low, high = gradients.code_range(planes)
    codes = torch.randint(low, high + 1, (5, 70)).bfloat16() if planes > 1 else torch.randn(5, 70).sign().bfloat16()
    scale, shift = code_levels(planes, codes)
    bits = k.pack_rows(codes, scale, shift, planes, "coded")
    signs = abcfx.quant.bits.unpack(bits, 70)
    beta, constant = abcfx.quant.activations.coefficients(scale, shift, planes, "coded")
    assert torch.equal(torch.einsum("q,qrc->rc", beta, signs) + constant, codes.float())


POSITIONS = {  # kernel, stride, dilation, images, padded h, padded w
    "1x1": ((1, 1), (1, 1), (1, 1), 1, 1, 77),
    "3x3": ((3, 3), (1, 1), (1, 1), 3, 9, 8),
    "strided": ((3, 2), (2, 3), (1, 1), 2, 12, 17),
    "dilated": ((2, 3), (1, 2), (3, 2), 1, 9, 14),
    "whole words": ((1, 3), (1, 1), (1, 1), 2, 8, 18),
    "nothing": ((1, 1), (1, 1), (1, 1), 0, 4, 4),
}


def same_positions(name: str, channels: int, planes: int, lanes: int) -> None:
    kernel, stride, dilation, n, h, w = POSITIONS[name]
    out = [
        (size - d * (taps - 1) - 1) // s + 1 for size, taps, s, d in zip((h, w), kernel, stride, dilation, strict=True)
    ]
    levels = torch.ones(planes) / 2, torch.randn(planes)
    bits = k.pack_image(torch.randn(n, channels, h, w), *levels, planes, "thermometer", 1, [0, 0])
    arguments = (bits, channels, kernel, stride, dilation, out, lanes)
    for got, wanted in zip(k.pack_positions(*arguments), kernel_positions.pack_positions(*arguments), strict=True):
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("name", POSITIONS)
@pytest.mark.parametrize(("channels", "planes"), [(1, 1), (5, 3), (16, 2), (32, 2), (64, 1), (70, 2), (130, 8)])
@pytest.mark.parametrize("lanes", [8, 32, 64])
def test_positions_are_those_of_the_reference(name: str, channels: int, planes: int, lanes: int) -> None:
    same_positions(name, channels, planes, lanes)


@pytest.mark.parametrize("method", METHODS)
def test_a_product_with_positions_is_the_float_product(method: str) -> None:
    """Few rows, a depth of many chunks: every row of codes times every column of ±1, exact integers."""
    rows, depth, channels = 70, 5000, 40
    codes = torch.randint(-8, 8, (depth, rows)).bfloat16().t()  # a view, as of channels-last gradients
    scale, shift = code_levels(4, codes)
    signs = torch.randn(depth, channels)
    bits = k.pack_rows(signs, torch.ones(1), torch.zeros(1), 1, "thermometer").view(1, 1, 1, depth, -1)
    packed, counts = k.pack_positions(bits, channels, [1, 1], [1, 1], [1, 1], [1, depth], lanes_of(method))
    tap_sums = (depth - 2 * counts).float().t().contiguous()
    grad_bits = k.pack_rows(codes, scale, shift, 4, "coded")
    assert torch.equal(grad_bits, kernel_pack.pack_rows(codes, scale, shift, 4, "coded"))
    got = k.linear(grad_bits, packed, torch.ones(1, channels), tap_sums, None, scale, shift, "coded", depth)
    wanted = codes.float() @ torch.where(signs >= 0.5, 1.0, -1.0)
    assert torch.equal(got, wanted)


BAD = [
    (lambda g, s: k.round_gradient(g.double(), g[:1], s, SEED, 4), "must be Float of 2 or 4 dimensions, got Double"),
    (lambda g, s: k.round_gradient(g, g[:1, :2], s, SEED, 4), r"gain must have shape \[any, 3\], got \[1, 2\]"),
    (lambda g, s: k.round_gradient(g, g[:1], torch.ones(3), SEED, 4), r"inverse must have shape \[2\], got \[3\]"),
    (lambda g, s: k.round_gradient(g, g[:1], s, SEED.int(), 4), "seed must be Long, got Int"),
    (lambda g, s: k.round_gradient(g, g[:1], s, SEED, 9), "number of planes must be from 1 to 8, got 9"),
    (lambda g, s: positions(out=[4, 3]), "4 output positions reach 6 pixels, but the padded height is 5"),
    (lambda g, s: positions(channels=65), r"bits must have shape \[any, any, any, any, 2\]"),
    (lambda g, s: positions(lanes=16), "lanes must be 8 .* got 16"),
    (lambda g, s: positions(stride=[1]), "stride must have 2 entries, got 1"),
]


def positions(channels: int = 64, stride: tuple = (1, 1), out: tuple = (3, 3), lanes: int = 32) -> tuple:
    bits = torch.zeros(1, 5, 2, 5, 1, dtype=torch.int64)
    return k.pack_positions(bits, channels, [3, 3], stride, [1, 1], out, lanes)


@pytest.mark.parametrize(("call", "message"), BAD, ids=[message for _, message in BAD])
def test_bad_arguments_get_a_sentence(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(torch.randn(2, 3), torch.ones(1))


@pytest.mark.skipif("ABCFX_KERNEL" in os.environ, reason="this is the run on a forced variant")
def test_the_portable_variant() -> None:
    """The tests above once more, on the variant that any machine runs."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(Path(__file__))]
    environment = {**os.environ, "ABCFX_KERNEL": "portable"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
