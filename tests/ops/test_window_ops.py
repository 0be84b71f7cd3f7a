"""abc_k::window_bits, window_adjoint, unpack_rows, unpack_image: compiled against the references and the formulas."""

from __future__ import annotations

import pytest
import torch
from test_kernel_ops import SPECIAL, Levels
from torch import Tensor

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_unpack, kernel_window, library
from abcfx.quant import activations, ste

k = torch.ops.abc_k
CASES = [(levels, planes) for levels in ("coded", "thermometer") for planes in range(1, 9)]
IMAGES = [(2, 9, 5, 7), (1, 64, 4, 4), (3, 1, 1, 1), (5, 70, 30, 31), (0, 3, 4, 4), (2, 0, 4, 4)]

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


def layouts_of(x: Tensor) -> list[Tensor]:
    """NCHW, channels_last, and a permutation that is neither."""
    odd = x.permute(2, 0, 3, 1).contiguous().permute(1, 3, 0, 2)
    return [x, x.contiguous(memory_format=torch.channels_last), odd]


def image_of(shape: tuple, dtype: torch.dtype = torch.float32) -> Tensor:
    x = torch.randn(shape)
    if x.numel() > 50:
        x.view(-1)[torch.randperm(x.numel())[: len(SPECIAL)]] = SPECIAL
    return x.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", IMAGES, ids=str)
def test_window_bits_are_those_of_the_reference(shape: tuple, dtype: torch.dtype) -> None:
    for x in layouts_of(image_of(shape, dtype)):
        for levels, planes in CASES:
            at = Levels.random(levels, planes)
            arguments = (x, at.scale, at.shift, planes, levels, at.windows()[0])
            got = k.window_bits(*arguments)
            assert got.shape == (2 if levels == "coded" else 2 * planes, -(-x.numel() // 8))
            assert torch.equal(got, kernel_window.window_bits(*arguments))


def test_window_bits_lie_in_memory_order() -> None:
    """Two channels of two pixels: NHWC memory holds both channels of a pixel side by side; inside is 0 <= x <= 1."""
    x = torch.tensor([[[[0.5, 2.0]], [[-1.0, 1.0]]]])  # inside: channel 0 of pixel 0, channel 1 of pixel 1
    one, zero = torch.ones(1), torch.zeros(1)
    assert k.window_bits(x, one, zero, 1, "coded")[0].item() == 0b1001
    x = x.transpose(1, 3).contiguous().transpose(1, 3)
    assert k.window_bits(x, one, zero, 1, "coded")[0].item() == 0b1001
    x[0, 0, 0, 1] = 1.0
    assert k.window_bits(x, one, zero, 1, "coded")[0].item() == 0b1101
    assert k.window_bits(x.contiguous(), one, zero, 1, "coded")[0].item() == 0b1011


@pytest.mark.parametrize("rule", ["identity", "abc"])
@pytest.mark.parametrize("shape", IMAGES, ids=str)
@pytest.mark.parametrize("scaled", [False, True])
def test_adjoint_against_the_one_that_keeps_x(shape: tuple, scaled: bool, rule: str) -> None:
    """dx exactly. dshift, and dscale of thermometer levels, are the same sums in another order: each term is rounded to
    2^-24 of itself and each of both sums by less than 100 such steps (blocks of 32 here, a cascade in torch). dscale of
    coded levels has Σ g²·(1/4 - r²)·rate² of variance: within five deviations, which bound its dither.
    """
    for x in layouts_of(image_of(shape)):
        grad = torch.randn_like(x)
        factors = torch.rand(len(x)) + 0.5 if scaled else None
        if scaled and x.numel() and len(x) > 1 and x.stride(0) * len(x) != x.numel():
            continue
        whole = grad if factors is None else grad * factors[:, None, None, None]
        for levels, planes in CASES:
            at = Levels.random(levels, planes)
            edges, slopes = at.windows(rule)
            windows = k.window_bits(x, at.scale, at.shift, planes, levels, edges)
            dx, dscale, dshift = k.window_adjoint(grad, windows, slopes, planes, levels, factors)
            wanted = ste.activation_adjoint(whole, x, at.scale, at.shift, planes, levels, rule)
            assert torch.equal(dx, wanted[0])
            assert dx.stride() == grad.stride()
            top, total = 2**planes - 1, float(whole.abs().sum())
            rate = (max(x.numel(), 1) * top) ** -0.5 if levels == "coded" else 1.0
            rounding = 100 * 2**-24 * total * rate
            torch.testing.assert_close(dshift, wanted[2], rtol=0, atol=rounding * float(slopes.max() + 1))
            dither = 5 * 0.5 * rate * float(whole.norm()) if levels == "coded" else 0.0
            torch.testing.assert_close(dscale, wanted[1], rtol=0, atol=rounding * top + dither)
            reference = kernel_window.window_adjoint(grad, windows, slopes, planes, levels, factors)
            for value, close in zip((dx, dscale, dshift), reference, strict=True):
                torch.testing.assert_close(value, close, rtol=0, atol=rounding * max(top, float(slopes.max())))


def test_the_gradient_of_the_step_is_unbiased() -> None:
    """g = r, the residual itself, so that a bias of the bits has nowhere to hide: rate·Σ r² over a million elements,
    within five deviations rate·√(Σ r²·(1/4 - r²)), 0.4 % of it.
    """
    scale, shift, planes = torch.tensor([0.37]), torch.tensor([-1.1]), 3
    x = torch.randn(2**20)
    t = (x - shift) / scale
    grad = (t.round() - t) * ((t >= 0) & (t <= 7))
    windows = k.window_bits(x, scale, shift, planes, "coded")
    _, dscale, _ = k.window_adjoint(grad, windows, scale, planes, "coded")
    rate = (x.numel() * 7) ** -0.5
    wanted = float(grad.square().sum()) * rate
    deviation = float((grad.square() * (0.25 - grad.square())).sum().sqrt()) * rate
    assert 5 * deviation < 0.01 * wanted
    assert abs(float(dscale) - wanted) < 5 * deviation


def test_threads_do_not_change_the_result() -> None:
    x, grad = torch.randn(8, 33, 61, 50), torch.randn(8, 33, 61, 50)
    before, found = torch.get_num_threads(), []
    packed = k.pack_image(x, torch.ones(1), torch.zeros(1), 2, "coded", 1, (1, 1))
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            windows = k.window_bits(x, torch.ones(1), torch.zeros(1), 2, "coded")
            values = k.unpack_image(packed, torch.ones(1), torch.zeros(1), "coded", 33, 1, (1, 1))
            found.append(
                (windows, values, *k.window_adjoint(grad, windows, torch.ones(1), 2, "coded", torch.rand(8) * 0 + 3))
            )
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize(("levels", "planes"), CASES)
def test_unpacking_gives_what_was_quantized(levels: str, planes: int) -> None:
    at = Levels.random(levels, planes)
    for shape, groups, padding in [((2, 140, 5, 6), 2, (1, 2)), ((1, 16, 9, 9), 1, (0, 0)), ((3, 5, 1, 1), 5, (2, 0))]:
        x = image_of(shape)
        packed = k.pack_image(x, at.scale, at.shift, planes, levels, groups, padding)
        arguments = (packed, at.scale, at.shift, levels, shape[1] // groups, groups, padding)
        got = k.unpack_image(*arguments)
        assert torch.equal(got, activations.quantize(x, at.scale, at.shift, planes, levels))
        assert got.permute(0, 2, 3, 1).is_contiguous()
        reference = kernel_unpack.unpack_image(*arguments)
        assert torch.equal(got, reference)
        assert got.stride() == reference.stride()
    for rows, depth in [(5, 130), (300, 64), (7, 1), (0, 9), (4, 0)]:
        x = torch.randn(rows, depth)
        packed = k.pack_rows(x, at.scale, at.shift, planes, levels)
        got = k.unpack_rows(packed, at.scale, at.shift, levels, depth)
        assert torch.equal(got, activations.quantize(x, at.scale, at.shift, planes, levels))
        assert torch.equal(got, kernel_unpack.unpack_rows(packed, at.scale, at.shift, levels, depth))


def test_dense() -> None:
    x = torch.randn(2, 3, 4, 5)
    for same in layouts_of(x):
        assert kernel_window.dense(same) is same
    for gaps in (x[:, :2], x[..., ::2], x[:, :1].expand(2, 3, 4, 5), x[0, 0, 0, 0].expand(3)):
        assert not kernel_window.is_dense(gaps)
        assert kernel_window.dense(gaps).is_contiguous()


X, ONE, WINDOWS = torch.randn(2, 3, 4), torch.ones(1), torch.zeros(2, 3, dtype=torch.uint8)
GAPS = r"must be dense .*got strides [\[\(]24, 4, 1[\]\)] of shape [\[\(]2, 3, 4[\]\)]; call contiguous"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: k.window_bits(torch.randn(2, 6, 4)[:, :3], ONE, ONE, 1, "coded"), f"window_bits: input {GAPS}"),
        (lambda: k.window_bits(X.double(), ONE, ONE, 1, "coded"), "input must be Float, BFloat16 or Half, got Double"),
        (lambda: k.window_bits(X, ONE, ONE, 1, "code"), "levels must be 'coded' or 'thermometer', got 'code'"),
        (lambda: k.window_bits(X, ONE, ONE, 9, "coded"), "the number of planes must be from 1 to 8, got 9"),
        (lambda: k.window_bits(X, ONE, ONE, 1, "thermometer"), "thermometer levels need edges"),
        (lambda: k.window_bits(X, ONE, ONE, 1, "thermometer", ONE), r"edges must have shape \[2, 1\], got \[1\]"),
        (
            lambda: k.window_adjoint(torch.randn(2, 6, 4)[:, :3], WINDOWS, ONE, 1, "coded"),
            f"window_adjoint: grad {GAPS}",
        ),
        (lambda: k.window_adjoint(X.half(), WINDOWS, ONE, 1, "coded"), "grad must be Float, got Half"),
        (lambda: k.window_adjoint(X, WINDOWS.long(), ONE, 1, "coded"), "windows must be Byte, got Long"),
        (lambda: k.window_adjoint(X, WINDOWS[:, :2], ONE, 1, "coded"), r"must have shape \[2, 3\], got \[2, 2\]"),
        (lambda: k.window_adjoint(X, WINDOWS, ONE, 2, "thermometer"), r"scale must have shape \[2\], got \[1\]"),
        (lambda: k.window_adjoint(X, WINDOWS, ONE, 1, "coded", torch.ones(3)), r"must have shape \[2\], got \[3\]"),
        (
            lambda: k.window_adjoint(X.permute(2, 0, 1), WINDOWS, ONE, 1, "coded", torch.ones(4)),
            "samples that follow each other in memory",
        ),
        (lambda: k.unpack_rows(torch.zeros(2, 5, 3).long(), ONE, ONE, "coded", 64), r"shape \[any, any, 1\]"),
        (lambda: k.unpack_rows(torch.zeros(2, 5, 3), ONE, ONE, "coded", 130), "bits must be Long, got Float"),
        (
            lambda: k.unpack_image(torch.zeros(1, 3, 2, 3, 2).long(), ONE, ONE, "coded", 70, 2, (1, 1)),
            r"bits must have shape \[any, any, any, any, 4\]",
        ),
        (
            lambda: k.unpack_image(torch.zeros(1, 3, 2, 3, 2).long(), ONE, ONE, "coded", 70, 1, (1, 2)),
            "bits of 3 x 3 pixels cannot have a padding of 1 and 2 on each side",
        ),
    ],
)
def test_bad_operands_get_a_sentence(call, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: kernel_window.window_bits(torch.randn(2, 6, 4)[:, :3], ONE, ONE, 1, "coded"), GAPS),
        (lambda: kernel_window.window_bits(X, ONE, ONE, 1, "thermometer"), "thermometer levels need the edges"),
        (
            lambda: kernel_window.window_adjoint(X.permute(2, 0, 1), WINDOWS, ONE, 1, "coded", torch.ones(4)),
            "samples that follow each other in memory",
        ),
    ],
)
def test_the_references_refuse_the_same(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
