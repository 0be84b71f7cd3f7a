"""Float layers in products of bfloat16: which ones, to what accuracy, and what is made once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes import narrow_floats
from graphs import Net, dynamo, run, targets
from oracle import relative_error
from small_net import Net as SmallNet
from test_fuse import NORM, inputs_of, norm
from torch import Tensor

import abcfx
from abcfx.graph import value
from abcfx.options import Options

ROUNDING = 3 * 2.0**-9  # of both operands and of the sum, relative


@pytest.fixture(autouse=True)
def everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where processors only emulate bfloat16."""
    monkeypatch.setattr(narrow_floats, "multiplies_bf16", lambda device: True)


LAYERS = {
    "conv2d": (lambda m, x: F.conv2d(x, m.w, m.b, 2, 1), (2, 20, 9, 9), (24, 20, 3, 3)),
    "conv2d without bias": (lambda m, x: F.conv2d(x, m.w, None, 2, 1, 1, 2), (2, 20, 9, 9), (24, 10, 3, 3)),
    "conv1d": (lambda m, x: F.conv1d(x, m.w, m.b), (2, 20, 9), (24, 20, 3)),
    "linear": (lambda m, x: F.linear(x, m.w, m.b), (2, 3, 20), (24, 20)),
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_float_layer_rounds_its_operands(layer: str, channels_last: bool) -> None:
    function, shape, weight = LAYERS[layer]
    x = torch.randn(shape)
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    captured = dynamo(Net(function, w=weight, b=(24,)).requires_grad_(False), x)
    pipeline = captured.pipeline()
    want = run(pipeline.gm, captured.inputs)
    pipeline.narrow()
    prologue = pipeline.hoist()
    assert prologue is not None
    assert len(prologue.names) == 1, "bf16(w) is made once"
    assert targets(pipeline.gm).count("aten.to.dtype") == 2, "only x and the output are converted in a call"
    got = run(pipeline.gm, captured.inputs, *inputs_of(captured, pipeline, prologue, captured.inputs))
    assert (got.dtype, got.shape, got.stride()) == (want.dtype, want.shape, want.stride())
    assert 0 < relative_error(got, want) <= ROUNDING


def test_a_stem_is_pooled_in_bfloat16() -> None:
    def stem(m: Any, x: Tensor) -> Tensor:
        return F.max_pool2d(F.relu(norm(m, F.conv2d(x, m.w, m.b))), 2)

    net = Net(stem, w=(24, 3, 3, 3), b=(24,), **NORM).requires_grad_(False)
    net.var.abs_().add_(0.1)
    captured = dynamo(net, torch.randn(2, 3, 12, 12))
    pipeline = captured.pipeline()
    want = run(pipeline.gm, captured.inputs)
    pipeline.fuse()
    pipeline.narrow()
    (pool,) = pipeline.gm.graph.find_nodes(op="call_function", target=torch.ops.aten.max_pool2d.default)
    assert value(pool).dtype == torch.bfloat16
    prologue = pipeline.hoist()
    got = run(pipeline.gm, captured.inputs, *inputs_of(captured, pipeline, prologue, captured.inputs))
    assert 0 < relative_error(got, want) <= ROUNDING


def test_a_computed_weight_and_other_dtypes_stay() -> None:
    def function(m: Any, x: Tensor, w: Tensor) -> Tensor:
        noisy = m.u + torch.randn_like(m.u)  # of each call another one: no constant, whatever it is made of
        return F.linear(x, w) + F.linear(x.double(), m.v).float() + F.linear(x, noisy)

    net = Net(function, v=(4, 20), u=(4, 20)).requires_grad_(False)
    net.v.data = net.v.double()
    captured = dynamo(net, torch.randn(3, 20), torch.randn(4, 20))
    pipeline = captured.pipeline()
    pipeline.narrow()
    assert "aten.to.dtype" not in targets(pipeline.gm)
    assert pipeline.hoist() is None
    assert set(pipeline.declined.values()) >= {"its weight is computed in each call", "is not computed in f32"}


def test_it_stays_in_f32_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narrow_floats, "multiplies_bf16", lambda device: False)
    captured = dynamo(Net(lambda m, x: F.linear(x, m.w), w=(4, 20)).requires_grad_(False), torch.randn(3, 20))
    pipeline = captured.pipeline()
    pipeline.narrow()
    assert pipeline.hoist() is None


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("fuse", [True, False])
def test_compiled_with_the_option(fuse: bool) -> None:
    torch._dynamo.reset()
    x = torch.randn(4, 3, 16, 16)
    quantized = abcfx.calibrate(abcfx.quantize_model(SmallNet().eval(), 4, 4), [x])
    plain = torch.compile(quantized, backend="abc", options={"fuse": fuse})
    narrow = torch.compile(quantized, backend="abc", options={"fuse": fuse, "float_layers": "bf16"})
    with torch.no_grad():
        want = plain(x)
        assert 0 < relative_error(narrow(x), want) < 0.1  # a code that changes moves more than rounding does
        quantized.stem.weight.mul_(2)
        assert relative_error(narrow(x), plain(x)) < 0.1, "the live weight counts"
        assert relative_error(narrow(x), want) > 0.1


def test_the_option_is_checked() -> None:
    with pytest.raises(ValueError, match="'float_layers' must be one of f32, bf16, got 'f16'"):
        Options.parse({"float_layers": "f16"})
