"""Runs as a program, as emulated_ops.py: what training needs besides the product, through the CUDA binding on the
emulated kernels, against the CPU's kernels and the pure-torch references; then a whole training step.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import abcfx
from abcfx.ops import (
    gradients,
    kernel_gradients,
    kernel_pool,
    kernel_positions,
    kernel_unpack,
    kernel_window,
    weight_cache,
)
from abcfx.ops.choose import forcing
from abcfx.ops.kernel_weights import CUDA_LANES, lanes_of
from abcfx.quant import ste

k = torch.ops.abc_k
SEED = torch.tensor([2**40 + 77])
# channels, outputs, kernel, image, stride, padding, dilation, images; M, N, K, levels
BACKWARD = {
    "3x3": ((35, 19, (3, 3), (6, 5), (1, 1), (1, 1), (1, 1), 2), (2, 2, 4, "coded")),
    "stride 2": ((16, 10, (3, 3), (8, 9), (2, 2), (1, 1), (1, 1), 3), (1, 2, 3, "thermometer")),
    "uneven": ((20, 7, (3, 5), (9, 14), (2, 1), (2, 3), (1, 1), 1), (1, 1, 1, "coded")),
    "dilated": ((5, 3, (3, 3), (7, 9), (1, 1), (2, 2), (2, 2), 2), (3, 3, 8, "thermometer")),
    "1x1": ((70, 9, (1, 1), (3, 4), (1, 1), (0, 0), (1, 1), 2), (2, 1, 2, "coded")),
}


def check_rounding() -> None:
    for shape in ((3, 5, 4, 6), (2, 70, 3, 2), (7, 33)):
        for gains, planes, shared in ((1, 1, True), (3, 4, False), (2, 8, True)):
            grad = torch.randn(shape).transpose(0, 1).contiguous().transpose(0, 1)
            gain, inverse = torch.rand(gains, shape[1]) + 0.5, torch.rand(1 if shared else shape[0]) * 2**planes
            arguments = grad, gain, inverse, SEED, planes
            got, wanted = k.round_gradient(*arguments), kernel_gradients.round_gradient(*arguments)
            assert (got.shape, got.stride()) == (wanted.shape, wanted.stride())
            assert torch.equal(got, wanted), (shape, gains, planes)
    print("round_gradient")


def check_positions() -> None:
    for channels, kernel, stride, dilation, size in (
        (5, (3, 3), (1, 1), (1, 1), (9, 8)),
        (70, (3, 2), (2, 3), (1, 2), (12, 17)),
        (64, (1, 1), (1, 1), (1, 1), (1, 7)),
    ):
        bits = k.pack_image(torch.randn(2, channels, *size), torch.ones(3), torch.randn(3), 3, "thermometer", 1, (1, 0))
        padded = bits.shape[1], bits.shape[3]
        out = [(padded[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
        arguments = bits, channels, kernel, stride, dilation, out, CUDA_LANES
        for got, wanted in zip(k.pack_positions(*arguments), kernel_positions.pack_positions(*arguments), strict=True):
            assert got.dtype == wanted.dtype
            assert torch.equal(got, wanted)
    print("pack_positions")


def check_windows() -> None:
    for levels, planes in (("coded", 1), ("coded", 3), ("thermometer", 2), ("thermometer", 8)):
        scale = torch.rand(1 if levels == "coded" else planes) + 0.1
        shift, edges, slopes = torch.randn_like(scale), None, scale
        if levels == "thermometer":
            edges, slopes = ste.thermometer_windows(scale, shift, "identity")
        last = torch.randn(2, 6, 4, 4).contiguous(memory_format=torch.channels_last)
        for x in (torch.randn(3, 5, 7, 9), last.half()):
            arguments = x, scale, shift, planes, levels, edges
            windows = k.window_bits(*arguments)
            assert torch.equal(windows, kernel_window.window_bits(*arguments))
            grad = torch.randn_like(x, dtype=torch.float32)
            for factors in (None, torch.rand(len(x))):
                got = k.window_adjoint(grad, windows, slopes, planes, levels, factors)
                wanted = kernel_window.window_adjoint(grad, windows, slopes, planes, levels, factors)
                assert got[0].stride() == wanted[0].stride() == grad.stride()
                assert torch.equal(got[0], wanted[0])
                for one, other in zip(got[1:], wanted[1:], strict=True):
                    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)  # f32 sums in another order
    print("windows")


def check_bits_back() -> None:
    for levels, planes in (("coded", 1), ("coded", 4), ("thermometer", 3)):
        scale = torch.rand(1 if levels == "coded" else planes) + 0.1
        shift = torch.randn_like(scale)
        rows = k.pack_rows(torch.randn(5, 130), scale, shift, planes, levels)
        arguments = rows, scale, shift, levels, 130
        assert torch.equal(k.unpack_rows(*arguments), kernel_unpack.unpack_rows(*arguments))
        for channels, groups, pad in ((70, 1, (1, 2)), (6, 3, (0, 1)), (64, 2, (0, 0))):
            image = k.pack_image(torch.randn(2, channels, 5, 6), scale, shift, planes, levels, groups, pad)
            arguments = image, scale, shift, levels, channels // groups, groups, pad
            got, wanted = k.unpack_image(*arguments), kernel_unpack.unpack_image(*arguments)
            assert got.stride() == wanted.stride()
            assert torch.equal(got, wanted)
            for window in (((2, 2), (2, 2), (0, 0)), ((3, 2), (1, 3), (1, 0)), ((3, 3), (2, 2), (1, 1))):
                arguments = image, levels, *window, pad, (2, 1)
                assert torch.equal(k.max_pool_bits(*arguments), kernel_pool.max_pool_bits(*arguments))
    print("unpack and pool")


def backward_products(name: str) -> list[Tensor]:
    """dx̂ and dŴ of a convolution, and of a linear layer with its channels; the same operands for each call."""
    (c, o, kernel, size, stride, padding, dilation, n), (m, planes, grad_planes, levels) = BACKWARD[name]
    torch.manual_seed(len(name))
    coded = levels == "coded"
    scale = torch.tensor([0.75]) if coded else torch.rand(planes) + 0.1
    shift = torch.tensor([-1.0]) if coded else torch.randn(planes)
    bases = torch.randint(0, 2, (m, o, kernel[0] * kernel[1], c), dtype=torch.int8) * 2 - 1
    alpha, geometry = torch.rand(m, o) + 0.1, (stride, padding, dilation)
    bits = k.pack_image(torch.randn(n, c, *size), scale, shift, planes, levels, 1, padding)
    out = [(size[i] + 2 * padding[i] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1 for i in range(2)]
    grad = torch.randn(n, *out, o).permute(0, 3, 1, 2)
    rows, line = torch.randn(2 * n, o), k.pack_rows(torch.randn(2 * n, c), scale, shift, planes, levels)
    where = scale, shift, levels, grad_planes, SEED
    return [
        gradients.input_grad_on_planes(grad, bases, alpha, grad_planes, SEED, geometry, kernel, size, "xnor"),
        gradients.weight_grad_on_planes(grad, bits, *where, geometry, [o, c, *kernel], "xnor"),
        gradients.linear_input_grad_on_planes(rows, bases[:, :, :1].contiguous(), alpha, grad_planes, SEED, "xnor"),
        gradients.linear_weight_grad_on_planes(rows, line, *where, c, "xnor"),
    ]


def training_step() -> dict[str, Tensor]:
    """Loss and gradients of a small net whose products all run on planes, by the eager adjoints."""
    torch.manual_seed(3)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 33, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(33), nn.ReLU(),
        nn.Conv2d(33, 18, 1), nn.ReLU(), nn.Flatten(), nn.Linear(18 * 16, 24), nn.ReLU(), nn.Linear(24, 5),
    )  # fmt: skip
    x, target = torch.randn(4, 3, 8, 8), torch.tensor([0, 4, 2, 1])
    quantized = abcfx.quantize_model(model, M=2, N=2, grad_bases=4)
    abcfx.calibrate(quantized, [x])
    quantized.train()
    torch.manual_seed(4)
    with forcing("xnor"):
        loss = nn.functional.cross_entropy(quantized(x), target)
        loss.backward()
    return {"loss": loss.detach()} | {n: p.grad for n, p in quantized.named_parameters() if p.grad is not None}


@contextmanager
def device_layout() -> Iterator[None]:
    """Weights are packed as for a CUDA device, whose kernels the CPU's keys now lead to."""
    modules = gradients, weight_cache
    for module in modules:
        module.lanes_of = lambda *_: CUDA_LANES
    yield
    for module in modules:
        module.lanes_of = lanes_of


def refusal_of(call: Callable[[], object]) -> str:
    try:
        call()
    except RuntimeError as error:
        return str(error)
    return "no error"


def check_refusals() -> None:
    bits = torch.zeros(1, 4, 2, 4, 1, dtype=torch.int64)
    for call, sentence in (
        (lambda: k.pack_positions(bits, 64, (1, 1), (1, 1), (1, 1), (4, 4), 8), "lanes must be 1 on a CUDA device"),
        (lambda: k.pack_positions(bits, 64, (3, 1), (1, 1), (1, 1), (4, 4), 1), "4 output positions reach 6 pixels"),
        (lambda: k.round_gradient(torch.ones(2, 3), torch.ones(1, 4), torch.ones(1), SEED, 2), "gain must have shape"),
        (lambda: k.window_bits(torch.randn(4, 4)[:, :2], torch.ones(1), torch.ones(1), 1, "coded"), "must be dense"),
        (lambda: k.window_bits(torch.randn(4), torch.ones(2), torch.ones(2), 2, "thermometer"), "need edges"),
        (lambda: k.unpack_rows(bits[0, 0], torch.ones(1), torch.ones(1), "coded", 65), "bits must have shape"),
        (lambda: k.max_pool_bits(bits, "coded", (5, 5), (1, 1), (0, 0), (0, 0), (0, 0)), "smaller than the window"),
    ):
        said = refusal_of(call)
        assert sentence in said, said
    print("refusals")


def main() -> None:
    torch.manual_seed(0)
    products = {name: backward_products(name) for name in BACKWARD}
    step = training_step()
    torch.ops.load_library(sys.argv[1])
    check_rounding()
    check_positions()
    check_windows()
    check_bits_back()
    check_refusals()
    with device_layout():
        for name, wanted in products.items():
            for got, other in zip(backward_products(name), wanted, strict=True):
                error = (got - other).norm() / other.norm()
                assert error < 1e-5, (name, error)  # the integers are the same, f32 sums in another order
            print("backward products", name)
        again = training_step()
    assert step.keys() == again.keys()
    errors = {name: float((again[name] - wanted).norm() / wanted.norm()) for name, wanted in step.items()}
    assert max(errors.values()) < 1e-4, errors  # f32 sums in another order; one code of a gradient more would be 1e-3
    print("training step", errors)


if __name__ == "__main__":
    main()
