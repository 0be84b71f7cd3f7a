"""The abc_k ops: compiled form against the float op on dequantized operands and against the torch reference."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, linear

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_conv, kernel_linear, kernel_pack, library
from abcfx.ops.kernel_weights import METHODS, lanes_of
from abcfx.quant import activations
from abcfx.quant.ste import thermometer_windows

k = torch.ops.abc_k
SPECIAL = torch.tensor([math.nan, -math.nan, math.inf, -math.inf, -0.0, 0.0])
# The integers are exact. What differs is the order of f32 sums: at most M·N + 3 terms here, thousands in the float op,
# whose rounding error grows like sqrt(depth)·2^-24 of the sum of magnitudes.
RELATIVE = 1e-5

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


@dataclass(frozen=True)
class Levels:
    name: str
    scale: Tensor
    shift: Tensor

    @classmethod
    def random(cls, name: str, n: int) -> Levels:
        if name == "coded":
            return cls(name, torch.tensor([5 / 2**n]), torch.tensor([-2.4]))  # normal values use the whole range
        return cls(name, torch.rand(n) + 0.1, torch.randn(n))

    def windows(self, rule: str = "identity") -> tuple[Tensor | None, Tensor]:
        """(edges, slopes) of the straight-through windows; coded levels have no edges, and their scale is not read."""
        return (None, self.scale) if self.name == "coded" else thermometer_windows(self.scale, self.shift, rule)


@dataclass(frozen=True)
class Weights:
    """bases int8 [M, O, taps, c], alpha [M, O], and what is made of them."""

    bases: Tensor
    alpha: Tensor

    @classmethod
    def random(cls, m: int, outputs: int, taps: int, channels: int) -> Weights:
        return cls(torch.randint(0, 2, (m, outputs, taps, channels), dtype=torch.int8) * 2 - 1, torch.rand(m, outputs))

    @property
    def dense(self) -> Tensor:
        return torch.einsum("mo,motc->otc", self.alpha, self.bases.float())

    @property
    def tap_sums(self) -> Tensor:
        return self.dense.sum(-1)


def close(got: Tensor, wanted: Tensor) -> None:
    """Relative to the largest output: single outputs may cancel to almost nothing."""
    scale = wanted.abs().max() if wanted.numel() else torch.tensor(1.0)
    torch.testing.assert_close(got, wanted, rtol=0, atol=float(scale) * RELATIVE)


CONVOLUTIONS = {  # groups, channels of a group, outputs, kernel, stride, padding, dilation, image
    "3x3": (1, 70, 19, (3, 3), (1, 1), (1, 1), (1, 1), (2, 9, 8)),
    "1x1": (1, 128, 24, (1, 1), (1, 1), (0, 0), (1, 1), (3, 6, 5)),
    "strided, dilated, groups": (2, 64, 20, (3, 5), (2, 1), (2, 3), (1, 2), (1, 9, 14)),
    "depthwise": (12, 1, 12, (3, 3), (1, 1), (1, 1), (1, 1), (1, 7, 7)),
    "more padding than image": (1, 5, 3, (3, 3), (1, 2), (4, 3), (2, 2), (2, 2, 3)),
    "one line": (1, 40, 9, (1, 7), (1, 2), (0, 3), (1, 1), (2, 1, 30)),
}


def conv_arguments(
    name: str, levels: Levels, m: int, n: int, bias: bool = True, method: str = "xnor"
) -> tuple[Tensor, Weights, tuple]:
    groups, c, outputs, kernel, stride, padding, dilation, (images, h, w) = CONVOLUTIONS[name]
    x = torch.randn(images, groups * c, h, w)
    weights = Weights.random(m, outputs, kernel[0] * kernel[1], c)
    bits = k.pack_image(x, levels.scale, levels.shift, n, levels.name, groups, padding)
    arguments = (
        bits, k.pack_weights(weights.bases, groups, lanes_of(method)), weights.alpha, weights.tap_sums,
        torch.randn(outputs) if bias else None, levels.scale, levels.shift, levels.name,
        c, kernel, stride, padding, dilation, groups,
    )  # fmt: skip
    return x, weights, arguments


def linear_arguments(
    levels: Levels, m: int, n: int, rows: int = 5, depth: int = 130, outputs: int = 21, method: str = "xnor"
) -> tuple[Tensor, Weights, tuple]:
    x, weights = torch.randn(rows, depth), Weights.random(m, outputs, 1, depth)
    bits = k.pack_rows(x, levels.scale, levels.shift, n, levels.name)
    packed = k.pack_weights(weights.bases, 1, lanes_of(method))
    tail = (torch.randn(outputs), levels.scale, levels.shift, levels.name, depth)
    return x, weights, (bits, packed, weights.alpha, weights.tap_sums, *tail)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 3), (5, 4), (8, 8)])
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("method", METHODS)
def test_linear_is_the_float_op_on_dequantized_operands(method: str, levels: str, m: int, n: int) -> None:
    at = Levels.random(levels, n)
    x, weights, arguments = linear_arguments(at, m, n, method=method)
    quantized = activations.quantize(x, at.scale, at.shift, n, levels)
    close(k.linear(*arguments), linear(quantized, weights.dense[:, 0], arguments[4]))
    close(k.linear(*arguments), kernel_linear.linear(*arguments))


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize(("m", "n"), [(1, 2), (3, 3)])
@pytest.mark.parametrize("method", METHODS)
def test_convolution_is_the_float_op_on_dequantized_operands(
    method: str, m: int, n: int, levels: str, name: str
) -> None:
    at = Levels.random(levels, n)
    x, weights, arguments = conv_arguments(name, at, m, n, method=method)
    groups, c, outputs, kernel, stride, padding, dilation, _ = CONVOLUTIONS[name]
    dense = weights.dense.transpose(1, 2).reshape(outputs, c, *kernel)
    quantized = activations.quantize(x, at.scale, at.shift, n, levels)
    wanted = conv2d(quantized, dense, arguments[4], stride, padding, dilation, groups).permute(0, 2, 3, 1)
    got = k.conv2d(*arguments)
    assert got.is_contiguous()
    close(got, wanted)
    close(got, kernel_conv.conv2d(*arguments))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_do_not_change_the_result(threads: int, method: str) -> None:
    """Large enough for several tasks: each output is made by one thread, in the same order."""
    at = Levels.random("coded", 2)
    before = torch.get_num_threads()
    x, weights = torch.randn(300, 700), Weights.random(2, 530, 1, 700)
    packed = k.pack_weights(weights.bases, 1, lanes_of(method))

    def run() -> Tensor:
        bits = k.pack_rows(x, at.scale, at.shift, 2, "coded")
        return k.linear(bits, packed, weights.alpha, weights.tap_sums, None, at.scale, at.shift, "coded", 700)

    try:
        torch.set_num_threads(1)
        wanted = run()
        torch.set_num_threads(threads)
        assert torch.equal(run(), wanted)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_special_values_pack_as_the_reference_says(levels: str) -> None:
    at = Levels.random(levels, 3)
    x = torch.randn(6, 200)
    x[:, 60:66] = SPECIAL
    got = k.pack_rows(x, at.scale, at.shift, 3, levels)
    assert torch.equal(got, kernel_pack.pack_rows(x, at.scale, at.shift, 3, levels))
    assert torch.equal(got[:, :, 0] >> 60 & 1, torch.ones(3, 6, dtype=torch.int64))  # NaN: -1 in every plane
    image = x[:3, :192].reshape(1, 64, 3, 3).contiguous(memory_format=torch.channels_last)
    args = (at.scale, at.shift, 3, levels, 1, (1, 1))
    assert torch.equal(k.pack_image(image, *args), kernel_pack.pack_image(image, *args))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_a_batch_norm_in_front_costs_no_pass_of_its_own(levels: str, dtype: torch.dtype) -> None:
    """pack(x, gain, offset) is pack(x·gain + offset), which is a batch norm in eval mode; on several threads."""
    at = Levels.random(levels, 3)
    x, gain, offset = torch.randn(3, 96, 40, 50, dtype=dtype), torch.randn(96), torch.randn(96)
    y = x.float() * gain.view(-1, 1, 1) + offset.view(-1, 1, 1)
    for layout in (torch.contiguous_format, torch.channels_last):
        wanted = k.pack_image(y, at.scale, at.shift, 3, levels, 2, (1, 1))
        got = k.pack_image(x.to(memory_format=layout), at.scale, at.shift, 3, levels, 2, (1, 1), gain, offset)
        assert torch.equal(got, wanted)
    rows, rows_of_y = (t.permute(0, 2, 3, 1).reshape(-1, 96) for t in (x, y))
    wanted = k.pack_rows(rows_of_y, at.scale, at.shift, 3, levels)
    assert torch.equal(k.pack_rows(rows, at.scale, at.shift, 3, levels, gain, offset), wanted)


@pytest.mark.parametrize(("rows", "depth", "outputs"), [(0, 130, 5), (4, 0, 5), (4, 130, 0), (0, 0, 0)])
def test_nothing_to_multiply(rows: int, depth: int, outputs: int) -> None:
    at = Levels.random("coded", 2)
    _, _, arguments = linear_arguments(at, 2, 2, rows, depth, outputs)
    got = k.linear(*arguments)
    assert got.shape == (rows, outputs)
    close(got, kernel_linear.linear(*arguments))


def test_no_images() -> None:
    at = Levels.random("coded", 2)
    bits = k.pack_image(torch.randn(0, 64, 5, 5), at.scale, at.shift, 2, "coded", 1, (1, 1))
    assert bits.shape == (0, 7, 2, 7, 1)
    _, _, arguments = conv_arguments("1x1", at, 2, 2)
    assert k.conv2d(arguments[0][:0], *arguments[1:]).shape == (0, 6, 5, 24)


def test_arguments_need_not_be_contiguous() -> None:
    at = Levels.random("thermometer", 3)
    _, _, arguments = linear_arguments(at, 2, 3)
    spread = [a.repeat_interleave(2, -1)[..., ::2] if isinstance(a, Tensor) else a for a in arguments]
    assert not spread[0].is_contiguous()
    assert torch.equal(k.linear(*spread), k.linear(*arguments))


def replaced(arguments: tuple, index: int, value: object) -> tuple:
    return (*arguments[:index], value, *arguments[index + 1 :])


LINEAR = ("bits", "weight_bits", "alpha", "tap_sums", "bias", "scale", "shift", "levels", "depth")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("bits", torch.zeros(2, 5, 3), "bits must be Long, got Float"),
        ("bits", torch.zeros(2, 5, 2, dtype=torch.int64), r"bits must have shape \[any, any, 3\], got \[2, 5, 2\]"),
        ("bits", torch.zeros(9, 5, 3, dtype=torch.int64), "number of planes must be from 1 to 8, got 9"),
        ("bits", torch.zeros(5, 3, dtype=torch.int64), r"bits must have shape \[any, any, 3\], got \[5, 3\]"),
        (
            "weight_bits",
            torch.zeros(1, 3, 2, 2, 8, dtype=torch.int64),
            r"shape \[1, 3, 2, 3, 8\], got \[1, 3, 2, 2, 8\]",
        ),
        ("weight_bits", torch.zeros(1, 3, 2, 3, 8), "weight_bits must be Long, got Float"),
        ("alpha", torch.zeros(2, 21, dtype=torch.float64), "alpha must be Float, got Double"),
        ("alpha", torch.zeros(9, 21), "number of weight bases must be from 1 to 8, got 9"),
        ("tap_sums", torch.zeros(21, 2), r"tap_sums must have shape \[21, 1\], got \[21, 2\]"),
        ("bias", torch.zeros(20), r"bias must have shape \[21\], got \[20\]"),
        ("scale", torch.zeros(2), r"scale must have shape \[1\], got \[2\]"),
        ("levels", "binary", "levels must be 'coded' or 'thermometer', got 'binary'"),
        ("depth", -1, "depth must not be negative, got -1"),
    ],
)
def test_bad_arguments_get_a_sentence(name: str, value: object, message: str) -> None:
    _, _, arguments = linear_arguments(Levels.random("coded", 2), 2, 2)
    with pytest.raises(RuntimeError, match=f"abc_k::linear: .*{message}"):
        k.linear(*replaced(arguments, LINEAR.index(name), value))


CONV2D = (*LINEAR[:8], "channels", "kernel", "stride", "padding", "dilation", "groups")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("groups", 5, "19 output channels cannot be split into 5 groups|bits must have shape"),
        ("kernel", (3,), "kernel must have 2 entries, got 1"),
        ("kernel", (12, 3), "weight_bits must have shape"),
        ("stride", (1, 0), "stride must be at least 1, got 0"),
        ("padding", (1, -1), "padding must be at least 0, got -1"),
        ("padding", (7, 1), "padded height 11, less than twice the padding 7"),
        ("dilation", (9, 1), "padded height 11 is less than the kernel's reach 19"),
        ("channels", 200, r"bits must have shape \[any, any, any, any, 4\]"),
    ],
)
def test_bad_geometry_gets_a_sentence(name: str, value: object, message: str) -> None:
    _, _, arguments = conv_arguments("3x3", Levels.random("coded", 2), 2, 2)
    with pytest.raises(RuntimeError, match=f"abc_k::conv2d: .*({message})"):
        k.conv2d(*replaced(arguments, CONV2D.index(name), value))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda s: k.pack_rows(torch.randn(2, 3).double(), s, s, 1, "coded"),
            "input must be Float, BFloat16 or Half, got Double; cast it",
        ),
        (lambda s: k.pack_rows(torch.randn(2, 3), s, s, 1, "coded", s), "gain and offset go together, got only gain"),
        (
            lambda s: k.pack_rows(torch.randn(2, 3), s, s, 1, "coded", None, s),
            "gain and offset go together, got only offset",
        ),
        (
            lambda s: k.pack_rows(torch.randn(2, 3), s, s, 1, "coded", torch.ones(3), s),
            r"offset must have shape \[3\], got \[1\]",
        ),
        (
            lambda s: k.pack_image(torch.randn(1, 6, 2, 2), s, s, 1, "coded", 2, (0, 0), torch.ones(3), torch.ones(3)),
            r"gain must have shape \[6\], got \[3\]",
        ),
        (
            lambda s: k.pack_rows(torch.randn(2, 3), s, s, 1, "coded", torch.ones(3).double(), torch.ones(3)),
            "gain must be Float, got Double",
        ),
        (lambda s: k.pack_rows(torch.randn(3), s, s, 1, "coded"), "input must have 2 dimensions"),
        (lambda s: k.pack_rows(torch.randn(2, 3), s, s, 9, "coded"), "number of planes must be from 1 to 8, got 9"),
        (lambda s: k.pack_rows(torch.randn(2, 3), s, s, 2, "thermometer"), r"scale must have shape \[2\], got \[1\]"),
        (
            lambda s: k.pack_image(torch.randn(1, 6, 2, 2), s, s, 1, "coded", 4, (0, 0)),
            "6 channels cannot be split into 4",
        ),
        (lambda s: k.pack_image(torch.randn(1, 6, 2, 2), s, s, 1, "coded", 1, (0, -1)), "padding must be at least 0"),
        (lambda s: k.pack_weights(torch.ones(1, 8, 1, 64), 1), "bases must be Char, got Float"),
        (lambda s: k.pack_weights(torch.ones(9, 8, 1, 64, dtype=torch.int8), 1), "must be from 1 to 8, got 9"),
        (lambda s: k.pack_weights(torch.ones(1, 8, 1, 64, dtype=torch.int8), 3), "8 output channels cannot be split"),
        (lambda s: k.pack_weights(torch.ones(1, 8, 1, 64, dtype=torch.int8), 1, 16), "lanes must be 8 .* got 16"),
    ],
)
def test_bad_operands_get_a_sentence(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call(torch.ones(1))


def test_string_arguments_do_not_leak() -> None:
    """20 000 calls; a leaked string of 32 bytes a call would be 640 KB."""
    resource = pytest.importorskip("resource")
    x, s = torch.randn(1, 64), torch.ones(1)
    for _ in range(2000):
        k.pack_rows(x, s, s, 1, "coded")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(20_000):
        k.pack_rows(x, s, s, 1, "coded")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500


WITHOUT_LIBRARY = """
from pathlib import Path
is_file = Path.is_file
Path.is_file = lambda path: not path.name.startswith("_kernels.") and is_file(path)
import torch, abcfx
from abcfx.ops import library
x, s, t = torch.tensor([[-1.0, 2.0, 0.2]]), torch.tensor([1.0]), torch.tensor([0.0])
print(torch.ops.abc_k.pack_rows(x, s, t, 2, "coded").tolist())
print(library.loaded(), library.kernel_variant(), library.problem())
"""


def test_without_the_library_the_reference_runs_and_says_so() -> None:
    """Codes 0, 2, 0: bit 0 is -1 everywhere, bit 1 at the ends; a set bit means -1."""
    command = [sys.executable, "-c", WITHOUT_LIBRARY]
    planes, state = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert planes == "[[[7]], [[5]]]"
    assert state.startswith("False reference the compiled kernels are not installed")
