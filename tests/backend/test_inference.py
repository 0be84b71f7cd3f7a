"""torch.compile(quantized, backend="abc") without gradients: same numbers as eager, one graph, nothing stale."""

from __future__ import annotations

import copy
import subprocess
import sys
import threading
from typing import Any

import pytest
import torch
from oracle import relative_error
from torch import Tensor, nn

import abcfx
from abcfx.plan import BASES

# The rest of the graph runs through inductor, which rounds batch norm another way: an activation within that rounding
# of a threshold flips by one level. On these sizes none or a handful of some 10,000 codes do.
CLOSE = 5e-3


@torch.no_grad()
def check(compiled: nn.Module, quantized: nn.Module, x: Tensor, limit: float = CLOSE) -> None:
    assert relative_error(compiled(x), quantized(x)) <= limit


def compile_(model: nn.Module, **options: Any) -> nn.Module:
    return torch.compile(model, backend="abc", fullgraph=True, options=options or None)


@pytest.mark.parametrize("then", ["eager", "aot_eager", "inductor"])
def test_equals_eager(quantized: nn.Module, images: Tensor, then: str) -> None:
    # with the same elementwise kernels around them, the packed layers give the same bits
    check(compile_(quantized, then=then), quantized, images, 1e-6 if then == "eager" else CLOSE)


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("basis", BASES)
def test_every_basis_and_levels(net: nn.Module, images: Tensor, basis: str, levels: str) -> None:
    q = abcfx.calibrate(abcfx.quantize_model(net, 3, 2, basis=basis, levels=levels, per_channel=False), [images])
    check(compile_(q, then="eager"), q, images, 1e-6)


def test_layers_reach_the_kernels(quantized: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from abcfx import backend, pipeline

    lowered = []
    original = pipeline.Pipeline.lower
    monkeypatch.setattr(backend.Pipeline, "lower", lambda self: lowered.append(original(self)) or lowered[-1])
    with torch.no_grad():
        compile_(quantized, then="eager")(images)
    assert sorted(lowered[0].kernels) == ["body", "down", "hidden"]
    assert lowered[0].reasons == {}


def test_fused_layers_exchange_bits(quantized: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    from abcfx import backend

    graphs = []
    original = backend.Pipeline.fuse

    def fuse(self: backend.Pipeline) -> object:
        prologue = original(self)
        graphs.append(str(self.gm.graph))
        return prologue

    monkeypatch.setattr(backend.Pipeline, "fuse", fuse)
    check(compile_(quantized), quantized, images)
    fused = graphs[0]
    torch._dynamo.reset()
    check(compile_(quantized, fuse=False), quantized, images)
    assert len(graphs) == 1, "fuse=False fuses all the same"
    assert fused.count("conv2d_emit") > 0
    assert fused.count("call_function[target=torch.ops.abc_k.pack_image") == 1, "down reads what body emits"


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[tuple[torch.fx.GraphModule, list[Any], dict[str, Any]]]:
    """What inductor gets: graph, inputs and its configuration, one entry a compilation."""
    from abcfx import backend

    seen: list[tuple[torch.fx.GraphModule, list[Any], dict[str, Any]]] = []
    original = backend.compile_fx

    def record(gm: torch.fx.GraphModule, inputs: list[Any], config_patches: dict[str, Any]) -> Any:
        seen.append((gm, inputs, config_patches))
        return original(gm, inputs, config_patches=config_patches)

    monkeypatch.setattr(backend, "compile_fx", record)
    return seen


def test_inductor_gets_no_input_that_nothing_reads(quantized: nn.Module, images: Tensor, handed_over: list) -> None:
    check(compile_(quantized), quantized, images)
    ((gm, inputs, _),) = handed_over
    placeholders = gm.graph.find_nodes(op="placeholder")
    assert len(placeholders) == len(inputs)
    assert all(node.users for node in placeholders)
    shapes = [tuple(x.shape) for x in inputs]
    assert tuple(images.shape) in shapes
    assert tuple(quantized.body.weight.shape) not in shapes, "the float weight is packed, and not read itself"


@torch.no_grad()
def test_kernels_run_in_chains(
    quantized: nn.Module, images: Tensor, handed_over: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit what single ops give, also for a batch of another size."""
    chained = compile_(quantized, calibration_batches=2)  # other options, or Dynamo would share the code
    outputs = [chained(images), chained(images[:3])]
    graphs = [str(gm.graph) for gm, _, _ in handed_over]
    assert all("abc_k.chain" in graph and "abc_k.conv2d" not in graph for graph in graphs)
    monkeypatch.setenv("ABCFX_SKIP", "chain")
    single = compile_(quantized)
    for output, batch in zip(outputs, (images, images[:3]), strict=True):
        assert torch.equal(output, single(batch))
    graphs = [str(gm.graph) for gm, _, _ in handed_over[len(graphs) :]]
    assert all("abc_k.chain" not in graph and "abc_k.conv2d" in graph for graph in graphs)


def test_kernels_are_called_one_by_one_from_the_cpp_wrapper(
    quantized: nn.Module, images: Tensor, handed_over: list
) -> None:
    """It takes the list of one tensor that a chain returns for the tensor, and crashes."""
    with torch._inductor.config.patch(cpp_wrapper=True):
        check(compile_(quantized), quantized, images)
    assert "abc_k.chain" not in str(handed_over[0][0].graph)


def test_a_changed_batch_norm_is_seen(net: nn.Module, images: Tensor) -> None:
    """Its parameters are folded into the kernels' scales, and folded again when they change."""
    body = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3), nn.BatchNorm2d(32), nn.ReLU()
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 4))
    quantized = abcfx.calibrate(abcfx.quantize_model(model.eval(), 2, 2), [images])
    compiled = compile_(quantized)
    check(compiled, quantized, images)
    with torch.no_grad():
        quantized[2].running_mean.add_(2.0)
        quantized[2].weight.mul_(-1.5)
    check(compiled, quantized, images)
    quantized[2].load_state_dict(nn.BatchNorm2d(32).state_dict())
    check(compiled, quantized, images)


@torch._dynamo.config.patch(error_on_recompile=True)
def test_dynamic_batch_and_size_take_one_graph(quantized: nn.Module) -> None:
    compiled = torch.compile(quantized, backend="abc", fullgraph=True, dynamic=True)
    for shape in ((4, 3, 16, 12), (7, 3, 16, 12), (2, 3, 24, 14), (5, 3, 20, 20)):
        check(compiled, quantized, torch.randn(shape))


def test_changing_batch_sizes_with_default_settings(quantized: nn.Module) -> None:
    compiled = compile_(quantized)
    for batch in (4, 1, 6, 9):
        check(compiled, quantized, torch.randn(batch, 3, 16, 16))


def test_channels_last(quantized: nn.Module, images: Tensor) -> None:
    check(compile_(quantized), quantized, images.to(memory_format=torch.channels_last))


def test_a_view_of_an_output_works_as_after_a_float_layer() -> None:
    class Viewed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(32, 8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).relu().view(x.shape[0], -1)

    x = torch.randn(2, 32, 6, 6)
    q = abcfx.calibrate(abcfx.quantize_model(Viewed()), [x])
    assert q(x).shape == (2, 128)
    check(compile_(q), q, x)


def test_inference_mode(quantized: nn.Module, images: Tensor) -> None:
    compiled = compile_(quantized)
    with torch.inference_mode():
        assert relative_error(compiled(images), quantized(images)) <= CLOSE
    check(compiled, quantized, images)


@pytest.mark.parametrize("then", ["eager", "inductor"])
def test_autocast(quantized: nn.Module, images: Tensor, then: str) -> None:
    compiled = compile_(quantized, then=then)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        got, want = compiled(images), quantized(images)
    assert got.dtype == want.dtype
    # the float layers around run in bfloat16, whose rounding moves codes in both models, not always the same ones
    assert relative_error(got, want) <= 0.1


@pytest.mark.parametrize("edit", ["in_place", "load_state_dict", "fused_sgd", "data_and_invalidate"])
def test_never_stale(quantized: nn.Module, net: nn.Module, images: Tensor, edit: str) -> None:
    compiled = compile_(quantized, then="eager")
    check(compiled, quantized, images, 1e-6)
    with torch.no_grad():
        before = compiled(images)
    if edit == "in_place":
        with torch.no_grad():
            quantized.body.weight.mul_(-2)
    elif edit == "load_state_dict":
        other = copy.deepcopy(net)
        with torch.no_grad():
            other.body.weight.neg_()
        quantized.load_state_dict(other.state_dict())
    elif edit == "data_and_invalidate":
        quantized.body.weight.data.mul_(-2)
        abcfx.invalidate(quantized)
    else:
        quantized.body.weight.grad = torch.randn_like(quantized.body.weight)
        torch.optim.SGD([quantized.body.weight], lr=1.0, fused=True).step()
    fresh = copy.deepcopy(quantized)  # knows nothing of what was packed before
    with torch.no_grad():
        assert not torch.equal(compiled(images), before)
        assert relative_error(compiled(images), fresh(images)) <= 1e-6


def test_recalibration_is_seen(quantized: nn.Module, images: Tensor) -> None:
    compiled = compile_(quantized, then="eager")
    check(compiled, quantized, images, 1e-6)
    abcfx.calibrate(quantized, [3 * images])
    check(compiled, quantized, images, 1e-6)


def test_several_threads(quantized: nn.Module) -> None:
    compiled = compile_(quantized, then="eager")
    inputs = [torch.randn(3, 3, 16, 16) for _ in range(8)]
    with torch.no_grad():
        want = [quantized(x) for x in inputs]
        compiled(inputs[0])
    got: dict[int, Tensor] = {}

    def work(first: int) -> None:
        with torch.no_grad():
            for i in range(first, len(inputs), 4):
                got[i] = compiled(inputs[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(relative_error(got[i], want[i]) <= 1e-6 for i in range(len(inputs)))


def test_uncalibrated_model_says_so(net: nn.Module, images: Tensor) -> None:
    compiled = torch.compile(abcfx.quantize_model(net), backend="abc")
    with torch.no_grad(), pytest.raises(abcfx.NotCalibratedError, match="body: activation levels are not fitted"):
        compiled(images)


def test_bad_weights_name_the_layer(quantized: nn.Module, images: Tensor) -> None:
    compiled = compile_(quantized, then="eager")
    check(compiled, quantized, images)
    with torch.no_grad():
        quantized.hidden.weight[0, 0] = torch.nan
        with pytest.raises(ValueError, match="hidden: .*finite"):
            compiled(images)


def test_needs_no_import(tmp_path: Any) -> None:
    """The entry point: a process that never imports abcfx finds the backend by its name."""
    program = (
        "import torch; f = torch.compile(torch.nn.Linear(64, 64), backend='abc', fullgraph=True,"
        " options={'M': 2, 'N': 2, 'then': 'eager'})\n"
        "with torch.no_grad(): print(f(torch.randn(3, 64)).shape)"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "torch.Size([3, 64])" in run.stdout, run.stderr
