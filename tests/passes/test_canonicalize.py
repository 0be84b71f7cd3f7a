"""Every spelling of a layer becomes aten.linear or aten.convolution, whatever the capture, with the same values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes._rule import apply_rules
from abcfx.passes.canonicalize import CANONICALIZE
from graphs import CAPTURES, Net, aten_level, dynamo, run, symbolic, targets

from abcfx.graph import text

MATRIX = {"w": (16, 8), "wt": (8, 16), "b": (16,)}
LINEAR = {
    "F.linear": lambda m, x: F.linear(x, m.w, m.b),
    "F.linear keywords": lambda m, x: F.linear(input=x, bias=m.b, weight=m.w),
    "F.linear transposed": lambda m, x: F.linear(x, m.wt.t(), m.b),
    "@": lambda m, x: x @ m.wt,
    "@ t": lambda m, x: x @ m.w.t(),
    "@ .T": lambda m, x: x @ m.w.T,
    "@ transpose": lambda m, x: x @ m.w.transpose(0, 1),
    "@ permute": lambda m, x: x @ torch.permute(m.w, (1, 0)),
    "torch.matmul": lambda m, x: torch.matmul(x, other=m.wt),
    "matmul": lambda m, x: x.matmul(m.wt),
}
LINEAR_2D = {
    "mm": lambda m, x: x.mm(m.wt),
    "torch.mm": lambda m, x: torch.mm(x, m.wt),
    "addmm": lambda m, x: torch.addmm(m.b, x, m.wt),
    "addmm scaled": lambda m, x: torch.addmm(m.b, x, m.wt, beta=0.5, alpha=-2),
    "addmm without bias": lambda m, x: torch.addmm(m.b * torch.nan, x, m.wt, beta=0),
    "addmm method": lambda m, x: m.b.addmm(x, m.wt),
}


def check(net: Net, capture: Callable, kind: str, *inputs: torch.Tensor) -> None:
    """Exactly one layer, of this kind, and the values of eager; a second pass finds nothing to do."""
    captured = capture(net, *inputs)
    pipeline = captured.pipeline()
    pipeline.canonicalize()
    (site,) = pipeline.match()
    assert site.site.kind == kind
    assert site.site.reason is None
    with torch.no_grad():
        eager = net(*inputs)
    # the same sums in an order that may differ
    torch.testing.assert_close(run(pipeline.gm, captured.inputs), eager, rtol=1e-5, atol=1e-5)
    before = text(pipeline.gm)
    assert not apply_rules(pipeline.gm, CANONICALIZE).applied
    assert text(pipeline.gm) == before


@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
@pytest.mark.parametrize("spelling", [*LINEAR, *LINEAR_2D])
def test_linear_spellings(spelling: str, capture: Callable) -> None:
    shapes = [(4, 8), (2, 3, 8), (8,)] if spelling in LINEAR else [(4, 8)]
    for shape in shapes:
        if capture is aten_level and len(shape) != 2 and "F.linear" not in spelling:
            continue  # make_fx spells other ranks as bmm, expand or mv before any pass sees them
        check(Net((LINEAR | LINEAR_2D)[spelling], **MATRIX), capture, "linear", torch.randn(shape))


def _conv(dims: int, **arguments: object) -> Callable:
    return lambda m, x: getattr(F, f"conv{dims}d")(x, m.w, m.b, **arguments)


def _transposed(dims: int, **arguments: object) -> Callable:
    return lambda m, x: getattr(F, f"conv_transpose{dims}d")(x, m.w, m.b, **arguments)


CONV = {
    "conv1d": (_conv(1), (6, 4, 3), (2, 4, 9), "conv1d"),
    "conv2d": (_conv(2, stride=2, padding=(1, 0), dilation=(1, 2)), (6, 4, 3, 3), (2, 4, 9, 9), "conv2d"),
    "conv3d": (_conv(3, padding=1), (6, 4, 3, 3, 3), (1, 4, 4, 5, 6), "conv3d"),
    "grouped": (_conv(2, groups=2), (6, 2, 3, 3), (2, 4, 9, 9), "conv2d"),
    "depthwise": (_conv(2, groups=6, padding=1), (6, 1, 3, 3), (2, 6, 9, 9), "conv2d"),
    "valid": (_conv(2, padding="valid"), (6, 4, 3, 3), (2, 4, 9, 9), "conv2d"),
    "same": (_conv(2, padding="same", dilation=2), (6, 4, 3, 5), (2, 4, 9, 9), "conv2d"),
    "same even": (_conv(2, padding="same"), (6, 4, 4, 2), (2, 4, 9, 9), "conv2d"),
    "same even dilated": (_conv(1, padding="same", dilation=3), (6, 4, 4), (2, 4, 12), "conv1d"),
    "no batch": (_conv(2, padding=1), (6, 4, 3, 3), (4, 9, 9), "conv2d"),
    "transpose1d": (_transposed(1, stride=2), (4, 6, 3), (2, 4, 9), "conv_transpose1d"),
    "transpose2d": (
        _transposed(2, stride=(2, 3), padding=1, output_padding=(1, 2), dilation=2),
        (4, 6, 3, 3), (2, 4, 5, 6), "conv_transpose2d",
    ),
    "transpose3d": (_transposed(3, groups=1), (4, 6, 2, 2, 2), (1, 4, 3, 3, 3), "conv_transpose3d"),
    "transpose no batch": (_transposed(2), (4, 6, 3, 3), (4, 5, 6), "conv_transpose2d"),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("capture", CAPTURES.values(), ids=CAPTURES)
@pytest.mark.parametrize("spelling", CONV)
def test_convolution_spellings(spelling: str, capture: Callable) -> None:
    function, weight, shape, kind = CONV[spelling]
    if capture is symbolic and "no batch" in spelling:
        pytest.skip("a graph without shapes is taken as batched")
    check(Net(function, w=weight, b=(6,)), capture, kind, torch.randn(shape))


DECLINED = {
    "activations": (lambda m, x: x @ x.t(), "activation × activation"),
    "constant on the left": (lambda m, x: m.w @ x.t(), "the constant is the left operand"),
    "computed weight": (lambda m, x: x @ (m.wt * 2), "activation × activation"),
    "vector": (lambda m, x: x @ m.v, "the constant has 1 dimensions"),
    "two constants": (lambda m, x: x + (m.w @ m.wt)[0, :8], "both operands are constants"),
}


@pytest.mark.parametrize("capture", [dynamo, symbolic], ids=["dynamo", "symbolic_trace"])
@pytest.mark.parametrize("case", DECLINED)
def test_other_products_are_left_alone(case: str, capture: Callable) -> None:
    function, reason = DECLINED[case]
    pipeline = capture(Net(function, v=(8,), **MATRIX), torch.randn(4, 8)).pipeline()
    before = text(pipeline.gm)
    report = pipeline.canonicalize()
    assert not report.applied
    assert text(pipeline.gm) == before
    assert list(report.declined.values()) == [next(iter(report.declined.values()))]
    assert reason in next(iter(report.declined.values()))


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.add_(1),
        lambda w: w.t().mul_(2),
        lambda w: torch.relu_(w),
        lambda w: F.relu(w, inplace=True),
        lambda w: w.__setitem__(0, 1.0),
        lambda w: torch.ops.aten.add_.Tensor(w, w),
    ],
    ids=["method", "view", "function", "inplace", "setitem", "operator"],
)
def test_a_constant_that_the_graph_writes_is_none(write: Callable) -> None:
    def function(net: Net, x: torch.Tensor) -> torch.Tensor:
        write(net.wt)
        return x @ net.wt

    captured = dynamo(Net(function, **MATRIX).requires_grad_(False), torch.randn(4, 8))
    report = captured.pipeline().canonicalize()
    assert not report.applied
    assert list(report.declined.values()) == ["no constant operand: activation × activation"]


def test_nothing_else_is_touched() -> None:
    net = Net(lambda m, x: torch.softmax(F.gelu(F.linear(x, m.w, m.b)), -1).sum(1) * 2, **MATRIX)
    captured = dynamo(net, torch.randn(4, 8))
    pipeline = captured.pipeline()
    pipeline.canonicalize()
    assert targets(pipeline.gm) == ["aten.linear.default", *targets(captured.gm)[1:]]


def test_the_captured_graph_is_not_changed() -> None:
    captured = dynamo(Net(LINEAR["@"], **MATRIX), torch.randn(4, 8))
    before = text(captured.gm)
    captured.pipeline().canonicalize()
    assert text(captured.gm) == before


def test_new_nodes_know_their_value_and_their_rule() -> None:
    pipeline = dynamo(Net(LINEAR["@"], **MATRIX), torch.randn(4, 8)).pipeline()
    pipeline.canonicalize()
    (node,) = [n for n in pipeline.gm.graph.nodes if n.target is torch.ops.aten.linear.default]
    assert node.meta["example_value"].shape == (4, 16)
    assert node.meta["abcfx"] == {"rule": "LinearFromMatmul", "replaces": "matmul"}
    assert "stack_trace" in node.meta


@pytest.mark.parametrize("spelling", ["conv2d", "transpose2d"])
def test_autocast_becomes_explicit(spelling: str) -> None:
    function, weight, shape, _ = CONV[spelling]
    net, x = Net(function, w=weight, b=(6,)), torch.randn(shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        captured = dynamo(net, x)
        with torch.no_grad():
            eager = net(x)
    pipeline = captured.pipeline()
    report = pipeline.canonicalize()
    assert sum(report.applied.values()) == 1
    assert targets(pipeline.gm).count("aten.to.dtype") == 3
    # outside autocast: the casts are in the graph now
    result = run(pipeline.gm, captured.inputs)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result, eager)


def test_dynamic_shapes_stay_dynamic() -> None:
    net = Net(lambda m, x: F.conv1d(x, m.w, m.b, padding="same"), w=(6, 4, 3), b=(6,))
    captured = dynamo(net, torch.randn(2, 4, 9), dynamic=True)
    pipeline = captured.pipeline()
    pipeline.canonicalize()
    (site,) = pipeline.match()
    batch, _, length = site.node.meta["example_value"].shape
    assert isinstance(batch, torch.SymInt)
    assert isinstance(length, torch.SymInt)
