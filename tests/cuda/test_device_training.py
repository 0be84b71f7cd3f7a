"""On a real CUDA device: what training and emitting products need, against the CPU; nothing waits for the device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from test_cuda_device import REFUSAL, cuda, operands
from torch import Tensor

import abcfx
from abcfx.ops import gradients, kernel_positions
from abcfx.ops.choose import forcing
from abcfx.ops.kernel_pack import NO_LIMIT
from abcfx.ops.kernel_weights import CUDA_LANES
from abcfx.quant import ste

k = torch.ops.abc_k
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=f"no CUDA kernels: {REFUSAL}")
SEED = torch.tensor([2**40 + 77])


@contextmanager
def no_waiting() -> Iterator[None]:
    """Inside, what synchronizes raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def levels_of(levels: str, planes: int) -> tuple[Tensor, Tensor]:
    scale = torch.rand(1 if levels == "coded" else planes) + 0.1
    return scale, torch.randn_like(scale)


@pytest.mark.parametrize("shape", [(3, 5, 4, 6), (8, 130, 14, 14), (7, 33)], ids=str)
@pytest.mark.parametrize(("gains", "planes"), [(1, 1), (2, 4), (3, 8)])
def test_codes_of_gradients(shape: tuple, gains: int, planes: int) -> None:
    grad, gain = torch.randn(shape), torch.rand(gains, shape[1]) + 0.5
    inverse = torch.rand(shape[0]) * 2**planes
    on_device = cuda(grad, gain, inverse, SEED)
    with no_waiting():
        got = k.round_gradient(*on_device, planes)
    assert torch.equal(got.cpu(), k.round_gradient(grad, gain, inverse, SEED, planes))


@pytest.mark.parametrize("channels", [5, 64, 200])
def test_positions(channels: int) -> None:
    levels = torch.ones(3), torch.randn(3)
    bits = k.pack_image(torch.randn(4, channels, 17, 15), *levels, 3, "thermometer", 1, (1, 0))
    shape = channels, (3, 2), (2, 3), (1, 2), [9, 5], CUDA_LANES
    wanted = kernel_positions.pack_positions(bits, *shape)
    for got, other in zip(k.pack_positions(bits.cuda(), *shape), wanted, strict=True):
        assert torch.equal(got.cpu(), other)


@pytest.mark.parametrize(("levels", "planes"), [("coded", 1), ("coded", 4), ("thermometer", 3)])
@pytest.mark.parametrize("shape", [(3, 5, 7, 9), (16, 64, 28, 28)], ids=str)
def test_windows_and_their_adjoint(shape: tuple, levels: str, planes: int) -> None:
    scale, shift = levels_of(levels, planes)
    edges, slopes = ste.thermometer_windows(scale, shift, "identity") if levels == "thermometer" else (None, scale)
    x, grad, factors = torch.randn(shape), torch.randn(shape), torch.rand(shape[0])
    windows = k.window_bits(x, scale, shift, planes, levels, edges)
    here = edges if edges is None else edges.cuda()
    wanted = k.window_adjoint(grad, windows, slopes, planes, levels, factors)
    x, scale, shift, grad, slopes, factors = cuda(x, scale, shift, grad, slopes, factors)
    with no_waiting():
        on_device = k.window_bits(x, scale, shift, planes, levels, here)
        got = k.window_adjoint(grad, on_device, slopes, planes, levels, factors)
    assert torch.equal(on_device.cpu(), windows)
    for one, other in zip(got, wanted, strict=True):
        assert torch.equal(one.cpu(), other)  # sums are added in one order everywhere


@pytest.mark.parametrize(("levels", "planes"), [("coded", 3), ("thermometer", 2)])
def test_values_and_maxima_of_planes(levels: str, planes: int) -> None:
    scale, shift = levels_of(levels, planes)
    here = cuda(scale, shift)
    rows = k.pack_rows(torch.randn(50, 130), scale, shift, planes, levels)
    assert torch.equal(
        k.unpack_rows(rows.cuda(), *here, levels, 130).cpu(), k.unpack_rows(rows, scale, shift, levels, 130)
    )
    image = k.pack_image(torch.randn(2, 70, 15, 16), scale, shift, planes, levels, 1, (1, 2))
    wanted = k.unpack_image(image, scale, shift, levels, 70, 1, (1, 2))
    assert torch.equal(k.unpack_image(image.cuda(), *here, levels, 70, 1, (1, 2)).cpu(), wanted)
    window = levels, (3, 3), (2, 2), (1, 1), (1, 2), (2, 1)
    assert torch.equal(k.max_pool_bits(image.cuda(), *window).cpu(), k.max_pool_bits(image, *window))


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("keep", [True, False])
def test_emitting_products(keep: bool, groups: int) -> None:
    """Equal to the product, torch's own epilogue and the pack: exact numbers, so that no order of sums matters."""
    bases, *rest = operands(2, 96, 9, 64, 2, groups)
    x = torch.randint(-8, 9, (2, 64 * groups, 15, 15)) / 4
    alpha, tap_sums, bias, scale, shift = cuda(*rest)
    bits = k.pack_image(x.cuda(), scale, shift, 2, "coded", groups, (1, 1))
    packed = k.pack_weights(bases.cuda(), groups, CUDA_LANES)
    product = bits, packed, alpha, tap_sums, bias, scale, shift, "coded", 64, [3, 3], [1, 1], [1, 1], [1, 1], groups
    gain, offset = 2.0 ** torch.randint(-2, 2, (96,)).cuda(), torch.randint(-4, 5, (96,)).cuda() / 4
    y = k.conv2d(*product)
    residual, slope = y.neg() / 2 + 1, gain
    wanted = y + residual
    wanted = torch.where(wanted > 0, wanted, wanted * slope).clamp(max=64)
    planes = k.pack_image((wanted * gain + offset).permute(0, 3, 1, 2), scale, shift, 2, "coded", 3, (1, 2))
    tail = residual, slope, -NO_LIMIT, 64.0, gain, offset, -NO_LIMIT, NO_LIMIT, scale, shift, 2, "coded", 3, (1, 2)
    with no_waiting():
        got, emitted = k.conv2d_emit(*product, *tail, keep)
    assert torch.equal(emitted, planes)
    assert torch.equal(got, wanted if keep else wanted[:0])


@pytest.mark.parametrize("stride", [1, 2])
def test_backward_products(stride: int) -> None:
    grad = torch.randn(8, 14 // stride, 14 // stride, 40).permute(0, 3, 1, 2)
    bases, alpha = torch.randint(0, 2, (2, 40, 9, 70), dtype=torch.int8) * 2 - 1, torch.rand(2, 40) + 0.1
    scale, shift = torch.tensor([0.75]), torch.tensor([-1.0])
    bits = k.pack_image(torch.randn(8, 70, 14, 14), scale, shift, 2, "coded", 1, (1, 1))
    geometry = (stride, stride), (1, 1), (1, 1)

    def both(
        grad: Tensor, bases: Tensor, alpha: Tensor, bits: Tensor, scale: Tensor, shift: Tensor, seed: Tensor
    ) -> tuple[Tensor, Tensor]:
        dx = gradients.input_grad_on_planes(grad, bases, alpha, 4, seed, geometry, (3, 3), (14, 14), "xnor")
        where = scale, shift, "coded", 4, seed, geometry, [40, 70, 3, 3], "xnor"
        return dx, gradients.weight_grad_on_planes(grad, bits, *where)

    operands = grad, bases, alpha, bits, scale, shift, SEED
    on_device = cuda(*operands)
    with no_waiting():
        found = both(*on_device)
    for got, wanted in zip(found, both(*operands), strict=True):
        assert (got.cpu() - wanted).norm() / wanted.norm() < 1e-5  # the same integers, f32 sums in another order


def test_a_compiled_training_step() -> None:
    """Its loss goes down, and its first gradient points where that of the float products points."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
        torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(64 * 16, 64), torch.nn.ReLU(), torch.nn.Linear(64, 10),
    ).cuda()  # fmt: skip
    x, target = torch.randn(64, 3, 8, 8, device="cuda"), torch.randint(10, (64,), device="cuda")
    quantized = abcfx.quantize_model(model, M=2, N=2, grad_bases=4)
    abcfx.calibrate(quantized, [x])
    quantized.train()
    optimizer = torch.optim.SGD(quantized.parameters(), 0.05)
    losses, grads = [], []
    with forcing("xnor"):
        for run in (quantized, *[torch.compile(quantized, backend="abc")] * 8):
            loss = torch.nn.functional.cross_entropy(run(x), target)
            optimizer.zero_grad()
            loss.backward()
            grads.append(torch.cat([p.grad.flatten() for p in quantized.parameters() if p.grad is not None]))
            if run is not quantized:
                optimizer.step()
            losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert torch.cosine_similarity(grads[0], grads[1], 0) > 0.9, "eager and compiled differ by their rounding alone"
