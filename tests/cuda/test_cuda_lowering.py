"""Graphs of models on a CUDA device, from fake tensors: no GPU and no CUDA build of torch; the library is made believe.

What is checked: every value stays on the device, and the ops that have CUDA kernels are the ones that are called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from abcfx.passes.adjoint import convolution_facts, forward_of, layer_adjoint, linear_facts
from build_kernels import compiler, run
from graphs import Captured, targets
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.cpp_extension import include_paths, library_paths

import abcfx
from abcfx.ops import gradients, library_cuda, product_adjoint
from abcfx.ops.choose import forcing
from abcfx.ops.kernel_weights import CUDA_LANES
from abcfx.ops.product_adjoint import MAX_CUDA_DEPTH
from abcfx.ops.schema import LINEAR, Geometry
from abcfx.plan import LayerPlan

HERE = Path(__file__).parent
GPU = torch.device("cuda", 0)
CONV = Geometry([1, 1], [1, 1], [1, 1], False, [0, 0], 1)


@pytest.fixture(autouse=True, scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Fake tensors of a GPU can be indexed."""
    if torch.version.cuda is None:
        made, source = tmp_path_factory.mktemp("guard") / "guard.so", HERE / "emulated" / "gpu_guard.cpp"
        folders = [f"-isystem{path}" for path in include_paths()] + [f"-L{path}" for path in library_paths()]
        run([compiler(), "-std=c++20", "-shared", "-fPIC", str(source), *folders, "-lc10", "-o", str(made)])
        torch.ops.load_library(made)
    elif not torch.cuda.is_available():
        pytest.skip("torch is built with CUDA, but sees no GPU")


@pytest.fixture(autouse=True)
def pretend(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of compute capability 8.0."""
    monkeypatch.setattr(library_cuda, "variant", lambda index=None: "sm_80")


@contextmanager
def fake_gpu() -> Iterator[None]:
    with FakeTensorMode(), forcing("xnor"):
        yield


class Block(nn.Module):
    """A residual block with a max pool behind it, and a linear head of two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(32, 32, 3, padding=1) for _ in range(2))
        self.head, self.last = nn.Linear(512, 64), nn.Linear(64, 24)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.first(x))
        y = torch.relu(self.second(y) + x)
        y = nn.functional.max_pool2d(y, 2)
        return self.last(torch.relu(self.head(y.flatten(1))))


def quantized() -> nn.Module:
    model = abcfx.quantize_model(Block(), M=2, N=2, first_last_float=False)
    abcfx.calibrate(model, [torch.randn(2, 32, 8, 8)])
    return model


def traced(model: nn.Module, call: Callable[[dict, Tensor], Any]) -> Captured:
    """The graph of call(state, x) with the parameters and buffers of `model` as inputs on the device."""
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    state = {name: torch.empty(t.shape, dtype=t.dtype, device=GPU) for name, t in tensors.items()}
    names, x = list(state), torch.empty(2, 32, 8, 8, device=GPU)
    graph = make_fx(lambda *flat: call(dict(zip(names, flat[:-1], strict=True)), flat[-1]))(*state.values(), x)
    inputs = [node.name for node in graph.graph.find_nodes(op="placeholder")]
    return Captured(graph, [*state.values(), x], set(inputs[:-1]))


def assert_all_on_the_device(graph: GraphModule) -> None:
    for node in graph.graph.nodes:
        found = node.meta.get("val")
        for value in found if isinstance(found, (tuple, list)) else [found]:
            assert not isinstance(value, Tensor) or value.device == GPU, node.format_node()


def ops_of(graph: GraphModule, namespace: str) -> list[str]:
    return [name.removeprefix(namespace) for name in targets(graph) if name.startswith(namespace)]


def test_inference_runs_on_the_kernels() -> None:
    model = quantized().eval()
    with fake_gpu(), torch.no_grad():
        pipeline = traced(model, lambda state, x: functional_call(model, state, (x,))).pipeline()
        pipeline.canonicalize()
        lowered = pipeline.lower()
        pipeline.fuse()
    assert not lowered.reasons
    assert len(lowered.kernels) == 4
    assert_all_on_the_device(pipeline.gm)
    found = [name.split(".")[0] for name in ops_of(pipeline.gm, "abc_k.")]
    assert found.count("conv2d_emit") == 2
    assert found.count("linear_emit") == 1
    assert found.count("linear") == 1
    assert sum(name.startswith("pack_") for name in found) == 2  # the input of the net, and behind the max pool
    bits = [value for name, value in inputs_of(pipeline.gm).items() if name.startswith("abc_bits")]
    assert {(value.dim(), value.dtype) for value in bits} == {(4, torch.int64)}, "not the layout of a device"


def inputs_of(graph: GraphModule) -> dict[str, Tensor]:
    return {node.name: node.meta["val"] for node in graph.graph.find_nodes(op="placeholder")}


@pytest.mark.parametrize(
    ("facts", "input", "weight", "geometry"),
    [(convolution_facts, (2, 32, 8, 8), (16, 32, 3, 3), CONV), (linear_facts, (6, 64), (24, 64), ())],
    ids=["convolution", "linear"],
)
def test_an_adjoint_stays_on_the_device(facts: Callable, input: tuple, weight: tuple, geometry: tuple) -> None:
    """The row of passes/adjoint.py, run by hand: autograd of a torch without CUDA takes no tensors of a GPU."""
    plan = LayerPlan(2, 2, grad_bases=4)

    def step(x: Tensor, w: Tensor, bias: Tensor, scale: Tensor, shift: Tensor) -> tuple:
        arguments = x, w, bias, scale, shift, *geometry, *plan.op_arguments()
        y, planes, windows = forward_of(facts)(*arguments)
        needs = [True] * len(arguments)
        return layer_adjoint(torch.ones_like(y), facts(*arguments), needs, planes, windows, w, scale, shift)

    with fake_gpu(), torch.no_grad():
        shapes = input, weight, weight[:1], (1,), (1,)
        graph = make_fx(step)(*(torch.empty(shape, device=GPU) for shape in shapes))
    assert_all_on_the_device(graph)
    found = [name.split(".")[0] for name in ops_of(graph, "abc.")]
    assert found == ["save_activation", "product", "input_adjoint", "activation_adjoint", "weight_adjoint"]


def kernels_of(call: Callable[..., Tensor], *tensors: Tensor) -> list[str]:
    """The abc_k ops that `call` runs, on fake tensors; what it returns must be on the device."""
    graph = make_fx(call)(*tensors)
    assert_all_on_the_device(graph)
    for node in graph.graph.nodes:
        if node.name.startswith(("pack_weights", "pack_positions")):
            assert node.args[-1] == CUDA_LANES, node.format_node()
    return [name.split(".")[0] for name in ops_of(graph, "abc_k.")]


def test_backward_products_run_on_the_kernels() -> None:
    assert product_adjoint._refusal([32, 32, 3, 3], CONV, GPU, 4096) is None
    with fake_gpu():
        grad, seed = torch.empty(2, 32, 8, 8, device=GPU), torch.empty(1, dtype=torch.int64, device=GPU)
        bases = torch.empty(2, 32, 9, 32, dtype=torch.int8, device=GPU)
        alpha, level = torch.empty(2, 32, device=GPU), torch.empty(1, device=GPU)
        planes = torch.empty(2, 10, 2, 10, 1, dtype=torch.int64, device=GPU)
        geometry = [1, 1], [1, 1], [1, 1]

        def input_grad(grad: Tensor, bases: Tensor, alpha: Tensor, seed: Tensor) -> Tensor:
            return gradients.input_grad_on_planes(grad, bases, alpha, 4, seed, geometry, [3, 3], [8, 8])

        def weight_grad(grad: Tensor, planes: Tensor, scale: Tensor, shift: Tensor, seed: Tensor) -> Tensor:
            where = scale, shift, "coded", 4, seed, geometry, [32, 32, 3, 3]
            return gradients.weight_grad_on_planes(grad, planes, *where)

        assert kernels_of(input_grad, grad, bases, alpha, seed) == [
            "round_gradient", "pack_image", "pack_weights", "conv2d"
        ]  # fmt: skip
        assert kernels_of(weight_grad, grad, planes, level, level, seed) == [
            "round_gradient", "pack_positions", "pack_rows", "linear"
        ]  # fmt: skip
        made, _ = torch.ops.abc_k.pack_positions(planes, 32, [3, 3], [1, 1], [1, 1], [8, 8], CUDA_LANES)
        assert made.shape == (1, 2, 288, 2)


def test_backward_products_that_stay_float_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = product_adjoint._refusal
    assert "the CUDA kernels sum over fewer than" in str(refused([32, 32, 3, 3], CONV, GPU, MAX_CUDA_DEPTH))
    assert refused([32, 32], LINEAR, GPU, MAX_CUDA_DEPTH - 1) is None
    assert "33 taps along an axis" in str(refused([32, 32, 1, 33], CONV, GPU, 9))
    monkeypatch.setattr(library_cuda, "variant", lambda index=None: "sm_100")
    assert "no bit matrix units" in str(refused([32, 32, 3, 3], CONV, GPU, 9))
    assert refused([32, 32, 3, 3], CONV, torch.device("cpu"), MAX_CUDA_DEPTH) is None
