"""On a real CUDA device: the ops against the CPU's, integers exact; capture in a CUDA graph; a whole compiled layer."""

from __future__ import annotations

import pytest
import torch

import abcfx
from abcfx.ops import library_cuda
from abcfx.ops.choose import forcing
from abcfx.ops.kernel_weights import CUDA_LANES, pack_weights

k = torch.ops.abc_k
REFUSAL = library_cuda.refusal(library_cuda.variant())
pytestmark = pytest.mark.skipif(REFUSAL is not None, reason=f"no CUDA kernels: {REFUSAL}")
SHAPES = [(1, 200, 40), (5, 64, 8), (300, 1000, 130), (2048, 4096, 512)]
CONVOLUTIONS = [
    (64, 1, 64, 3, 1, 1, 14),
    (128, 1, 128, 3, 1, 1, 50),
    (128, 2, 96, 3, 2, 1, 15),
    (256, 1, 64, 1, 1, 0, 9),
]


def operands(m: int, outputs: int, taps: int, channels: int, planes: int, groups: int = 1) -> tuple:
    """Powers of two, so that every f32 sum is exact in any order: (bases, alpha, tap_sums, bias, scale, shift)."""
    bases = torch.randint(0, 2, (m, outputs, taps, channels), dtype=torch.int8) * 2 - 1
    alpha = 2.0 ** torch.randint(-2, 2, (m, outputs))
    tap_sums = (bases.sum(-1) * alpha.unsqueeze(-1)).sum(0)
    return bases, alpha, tap_sums, torch.randint(-8, 9, (outputs,)).float(), torch.tensor([0.5]), torch.tensor([-1.0])


def cuda(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [tensor.cuda() for tensor in tensors]


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (3, 3), (1, 4), (5, 3)])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear_gives_the_integers_of_the_cpu(shape: tuple, m: int, n: int) -> None:
    rows, depth, outputs = shape
    bases, *rest = operands(m, outputs, 1, depth, n)
    alpha, tap_sums, bias, scale, shift = rest
    x = torch.randint(-8, 9, (rows, depth)) / 4
    bits = k.pack_rows(x, scale, shift, n, "coded")
    wanted = k.linear(bits, k.pack_weights(bases, 1), alpha, tap_sums, bias, scale, shift, "coded", depth)
    alpha, tap_sums, bias, scale, shift = cuda(*rest)
    on_device = k.pack_rows(x.cuda(), scale, shift, n, "coded")
    assert torch.equal(on_device.cpu(), bits)
    packed = k.pack_weights(bases.cuda(), 1, CUDA_LANES)
    assert torch.equal(packed.cpu(), pack_weights(bases, 1, CUDA_LANES))
    y = k.linear(on_device, packed, alpha, tap_sums, bias, scale, shift, "coded", depth)
    assert torch.equal(y.cpu(), wanted)


@pytest.mark.parametrize(("m", "n"), [(1, 1), (2, 2), (3, 3), (1, 3)])
@pytest.mark.parametrize("shape", CONVOLUTIONS, ids=str)
def test_conv2d_gives_the_integers_of_the_cpu(shape: tuple, m: int, n: int) -> None:
    channels, groups, outputs, size, stride, padding, image = shape
    bases, *rest = operands(m, outputs, size * size, channels // groups, n, groups)
    alpha, tap_sums, bias, scale, shift = rest
    x = torch.randint(-8, 9, (2, channels, image, image)) / 4
    geometry = (channels // groups, [size] * 2, [stride] * 2, [padding] * 2, [1, 1], groups)
    bits = k.pack_image(x, scale, shift, n, "coded", groups, [padding] * 2)
    wanted = k.conv2d(bits, k.pack_weights(bases, groups), alpha, tap_sums, bias, scale, shift, "coded", *geometry)
    alpha, tap_sums, bias, scale, shift = cuda(*rest)
    on_device = k.pack_image(x.cuda(), scale, shift, n, "coded", groups, [padding] * 2)
    assert torch.equal(on_device.cpu(), bits)
    packed = k.pack_weights(bases.cuda(), groups, CUDA_LANES)
    y = k.conv2d(on_device, packed, alpha, tap_sums, bias, scale, shift, "coded", *geometry)
    assert torch.equal(y.cpu(), wanted)


def test_a_captured_graph_follows_its_inputs_and_levels() -> None:
    bases, *rest = operands(2, 64, 1, 256, 2)
    alpha, tap_sums, bias, scale, shift = cuda(*rest)
    packed, x = k.pack_weights(bases.cuda(), 1, CUDA_LANES), torch.randn(128, 256, device="cuda")

    def layer() -> torch.Tensor:
        planes = k.pack_rows(x, scale, shift, 2, "coded")
        return k.linear(planes, packed, alpha, tap_sums, bias, scale, shift, "coded", 256)

    layer()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = layer()
    x.copy_(torch.randn_like(x))
    scale.mul_(2)
    bias.add_(1)
    graph.replay()
    assert torch.equal(y, layer())


def test_a_compiled_model_runs_on_planes() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(256, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256), torch.nn.ReLU(),
                                torch.nn.Linear(256, 8)).cuda().eval()  # fmt: skip
    quantized = abcfx.quantize_model(model, M=2, N=2)
    x = torch.randn(128, 256, device="cuda")
    abcfx.calibrate(quantized, [x])
    with torch.inference_mode(), forcing("dense"):
        wanted = quantized(x)
    with torch.inference_mode(), forcing("xnor"):
        eager, compiled = quantized(x), torch.compile(quantized, backend="abc")(x)
    assert ((eager - wanted).norm() / wanted.norm()) < 1e-3  # a code at a tie may flip after other f32 sums
    assert ((compiled - wanted).norm() / wanted.norm()) < 1e-3
