"""Max pooling goes before batch norm and ReLU of a float convolution: the same values, gains of either sign."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import Net, dynamo, run, targets
from test_fuse import NORM, inputs_of, norm
from torch import Tensor, nn

import abcfx
from abcfx import backend
from abcfx.graph import clone

IMAGE, WEIGHT = (2, 3, 19, 17), (24, 3, 3, 3)


def pooled_first(function: Callable[..., Any], *inputs: Tensor, **shapes: Any) -> list[str]:
    """The ops after fusing, in order, having compared values, NaN and strides."""
    net = Net(function, **shapes).requires_grad_(False)
    for name, parameter in net.named_parameters():
        if name == "var":
            parameter.data.abs_().add_(0.1)
    captured = dynamo(net, *inputs)
    pipeline = captured.pipeline()
    wanted = run(clone(pipeline.gm), captured.inputs)
    pipeline.fuse()
    prologue = pipeline.hoist()
    got = run(pipeline.gm, captured.inputs, *inputs_of(captured, pipeline, prologue, captured.inputs))
    assert got.stride() == wanted.stride()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-5, equal_nan=True)
    return targets(pipeline.gm)


STEMS = {
    "norm, relu": lambda m, x: F.max_pool2d(F.relu(norm(m, F.conv2d(x, m.w, None, 2, 1))), 3, 2, 1),
    "norm, relu in place": lambda m, x: F.max_pool2d(F.relu(norm(m, F.conv2d(x, m.w)), inplace=True), 2),
    "bias, norm, relu6": lambda m, x: F.max_pool2d(F.relu6(norm(m, F.conv2d(x, m.w, m.b))), (3, 2), (2, 3), (1, 0)),
    "norm": lambda m, x: F.max_pool2d(norm(m, F.conv2d(x, m.w)), 2),
    "relu": lambda m, x: F.max_pool2d(F.relu(F.conv2d(x, m.w, m.b)), 2),
}


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_stem_is_pooled_first(stem: str, channels_last: bool) -> None:
    x = torch.randn(IMAGE)
    x[1, 2, 9, 9] = torch.nan
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    ops = pooled_first(STEMS[stem], x, w=WEIGHT, b=(24,), **NORM)
    turned = ["aten.mul.Tensor"] if "norm" in stem else []
    assert ops[: len(turned) + 2] == [*turned, "aten.convolution.default", "aten.max_pool2d.default"]
    assert not {"batch_norm", "aten.batch_norm.default"} & set(ops)
    assert not [op for op in ops if "copysign" in op or "rsqrt" in op], "constants are made once"


STAY = {
    "other readers": lambda m, x: (lambda y: F.max_pool2d(y, 2).sum() + y.sum())(F.relu(F.conv2d(x, m.w))),
    "as many pixels": lambda m, x: F.max_pool2d(F.relu(F.conv2d(x, m.w)), 3, 1, 1),
    "no convolution": lambda m, x: F.max_pool2d(F.relu(x + 1), 2),
    "computed statistics": lambda m, x: F.max_pool2d(
        F.batch_norm(F.conv2d(x, m.w), None, None, training=True), 2
    ),
    "average": lambda m, x: F.avg_pool2d(F.relu(F.conv2d(x, m.w)), 2),
    "indices": lambda m, x: F.max_pool2d(F.relu(F.conv2d(x, m.w)), 2, return_indices=True)[0],
}  # fmt: skip


@pytest.mark.parametrize("case", STAY)
def test_it_stays(case: str) -> None:
    assert "aten.max_pool2d.default" not in pooled_first(STAY[case], torch.randn(IMAGE), w=WEIGHT)


class Front(nn.Module):
    """A float stem and a quantized layer: with a residual that of a ResNet, else that of a VGG net."""

    def __init__(self, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.stem = nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2))
        self.body = nn.Conv2d(24, 24, 3, padding=1)
        self.head = nn.Linear(24, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.body(x)
        return self.head((y + x if self.residual else y).mean((2, 3)))


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("residual", [False, True])
def test_planes_are_pooled_where_only_packs_read_it(residual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pipelines, opened = [], backend.open_graph
    monkeypatch.setattr(backend, "open_graph", lambda *a: pipelines.append(opened(*a)) or pipelines[-1])
    x = torch.randn(IMAGE)
    quantized = abcfx.calibrate(abcfx.quantize_model(Front(residual).eval(), 2, 2), [x])
    with torch.no_grad():
        got = torch.compile(quantized, backend="abc", options={"then": "eager"})(x)
        torch.testing.assert_close(got, quantized(x), rtol=1e-4, atol=1e-4)
    ops = targets(pipelines[-1].gm)
    assert ops.count("aten.max_pool2d.default") == residual
    assert ops.count("abc_k.max_pool_bits.default") == (not residual)


def compiled_front(**options: Any) -> tuple[nn.Module, Any, Tensor]:
    torch._dynamo.reset()
    x = torch.randn(IMAGE)
    quantized = abcfx.calibrate(abcfx.quantize_model(Front(True).eval(), 2, 2), [x])
    return quantized, torch.compile(quantized, backend="abc", **options), x


@pytest.mark.parametrize("dynamic", [None, True])
def test_a_batch_may_be_dynamic(dynamic: bool | None) -> None:
    quantized, fast, _ = compiled_front(dynamic=dynamic, options={"then": "eager"})
    with torch.no_grad():
        for batch in (2, 5, 3):
            x = torch.randn(batch, *IMAGE[1:])
            torch.testing.assert_close(fast(x), quantized(x), rtol=1e-4, atol=1e-4)


def test_the_weight_of_a_stem_is_read_in_each_call() -> None:
    """Edits of .data, too, which have no version: nothing of a float weight is kept by default."""
    quantized, fast, x = compiled_front(options={"then": "eager"})
    with torch.no_grad():
        before = fast(x)
        quantized.stem[0].weight.data.mul_(-3)
        after = fast(x)
        torch.testing.assert_close(after, quantized(x), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(before, after)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_a_padding_that_is_not_symmetric_keeps_its_spelling() -> None:
    """Its canonical form has other strides."""
    stem = lambda m, x: F.max_pool2d(F.relu(F.conv2d(x, m.w, padding="same")), 2)  # noqa: E731
    ops = pooled_first(stem, torch.randn(IMAGE), w=(24, 3, 2, 2))
    assert "aten.convolution.default" not in ops
