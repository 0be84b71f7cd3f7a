"""Batch norm, additions and activations move into the kernel before them; the values stay those of separate ops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes.hoist import Prologue
from graphs import CAPTURES, Captured, Net, aten_level, dynamo, run, targets, weight_tensors
from test_rewrite_abc import rewritten
from torch import Tensor

from abcfx.graph import clone
from abcfx.pipeline import Pipeline

pytestmark = pytest.mark.usefixtures("kernels")
TOLERANCE = 2e-5  # of the largest output: α·g is rounded before the sum


def inputs_of(captured: Captured, pipeline: Pipeline, prologue: Prologue | None, tensors: list[Tensor]) -> list[Tensor]:
    """What the inputs that `fuse` added stand for."""
    if prologue is None:
        return []
    names = [node.name for node in pipeline.gm.graph.find_nodes(op="placeholder")]
    live = [tensors[names.index(source)] if isinstance(source, str) else source for source in prologue.sources]
    return prologue.tensors(live)


def fused_matches(function: Callable[..., Any], *inputs: Tensor, capture: Callable = dynamo, **shapes: Any) -> Pipeline:
    """Lower and fuse; the same values as lowered alone, and the same bits with the kernels in chains."""
    net = Net(function, **shapes).requires_grad_(False)
    for name, parameter in net.named_parameters():
        if name.startswith("var"):
            parameter.data.abs_().add_(0.1)
    captured = capture(net, *inputs)
    pipeline = captured.pipeline()
    added = rewritten(pipeline)
    lowered = pipeline.lower()
    before = clone(pipeline.gm)
    tensors = [*captured.inputs, *added, *weight_tensors(captured, lowered)]
    wanted = run(before, tensors)
    pipeline.fuse()
    prologue = pipeline.hoist()
    folded = inputs_of(captured, pipeline, prologue, tensors)
    got = run(pipeline.gm, tensors, *folded)
    assert (got.dtype, got.shape, got.stride()) == (wanted.dtype, wanted.shape, wanted.stride())
    torch.testing.assert_close(got, wanted, rtol=0, atol=TOLERANCE * float(wanted.abs().max() + 1))
    chained = Pipeline(clone(pipeline.gm))
    chained.chain()
    assert torch.equal(run(chained.gm, tensors, *folded), got)
    return pipeline


NORM = {"mean": (24,), "var": (24,), "gain": (24,), "shift": (24,)}
IMAGE, WEIGHT = (2, 20, 9, 9), (24, 20, 3, 3)


def norm(m: Any, x: Tensor) -> Tensor:
    return F.batch_norm(x, m.mean, m.var, m.gain, m.shift, False, 0.1, 1e-5)


CHAINS = {
    "norm": lambda m, x, r: norm(m, F.conv2d(x, m.w, m.b, padding=1)),
    "norm without parameters": lambda m, x, r: F.batch_norm(F.conv2d(x, m.w, padding=1), m.mean, m.var),
    "norm, relu": lambda m, x, r: F.relu(norm(m, F.conv2d(x, m.w, padding=1)), inplace=True),
    "norm, add, relu": lambda m, x, r: F.relu(norm(m, F.conv2d(x, m.w, padding=1)) + r),
    "relu6": lambda m, x, r: F.relu6(F.conv2d(x, m.w, m.b, padding=1)),
    "hardtanh": lambda m, x, r: F.hardtanh(F.conv2d(x, m.w, m.b, padding=1), -0.5, 0.7),
    "clamp": lambda m, x, r: torch.clamp(F.conv2d(x, m.w, m.b, padding=1), max=0.3),
    "dropout": lambda m, x, r: F.dropout(F.conv2d(x, m.w, m.b, padding=1), 0.5, False) + r,
    "method": lambda m, x, r: F.conv2d(x, m.w, m.b, padding=1).add(r).relu(),
    "prelu": lambda m, x, r: F.prelu(F.conv2d(x, m.w, m.b, padding=1), m.slope),
    "prelu, one slope": lambda m, x, r: F.prelu(F.conv2d(x, m.w, m.b, padding=1), m.slope[:1].detach()),
    "affine": lambda m, x, r: torch.addcmul(m.shift.view(1, -1, 1, 1), F.conv2d(x, m.w, m.b, padding=1),
                                            m.gain.view(1, -1, 1, 1)),
}  # fmt: skip


@pytest.mark.parametrize("chain", CHAINS)
def test_what_follows_a_convolution_is_fused(chain: str) -> None:
    residual = torch.randn(2, 24, 9, 9) * 20
    pipeline = fused_matches(CHAINS[chain], torch.randn(IMAGE), residual, w=WEIGHT, b=(24,), slope=(24,), **NORM)
    left = {t for t in targets(pipeline.gm) if not t.startswith(("abc_k", "aten.permute", "aten.clone", "getitem"))}
    assert left <= {"detach", "__getitem__"}, "glue is left in the graph"


def test_two_kernels_and_their_sum() -> None:
    """A block with a shortcut of its own: one product adds the other's floats."""

    def block(m: Any, x: Tensor) -> Tensor:
        return F.relu(norm(m, F.conv2d(x, m.w, padding=1)) + F.batch_norm(F.conv2d(x, m.short), m.mean, m.var))

    pipeline = fused_matches(block, torch.randn(IMAGE), w=WEIGHT, short=(24, 20, 1, 1), **NORM)
    ops = targets(pipeline.gm)
    assert ops.count("abc_k.conv2d_emit.default") == 1
    assert ops.count("abc_k.conv2d.default") == 1
    assert not {"batch_norm", "add", "relu"} & set(ops)


@pytest.mark.parametrize("capture", [dynamo, aten_level], ids=["dynamo", "make_fx"])
@pytest.mark.parametrize("shape", [(5, 70), (2, 3, 70)], ids=str)
def test_what_follows_a_linear_layer_is_fused(shape: tuple, capture: Callable) -> None:
    residual = torch.randn(*shape[:-1], 24)
    pipeline = fused_matches(
        lambda m, x, r: torch.relu(F.linear(x, m.w, m.b) + r), torch.randn(shape), residual, w=(24, 70), b=(24,),
        capture=capture,
    )  # fmt: skip
    assert not [op for op in targets(pipeline.gm) if "relu" in op or "add" in op]


DECLINED = {
    "other readers": (lambda m, x: (lambda y: F.relu(y) + y.sigmoid())(F.conv2d(x, m.w)), "other readers"),
    "training statistics": (
        lambda m, x: F.batch_norm(F.conv2d(x, m.w), None, None, training=True), "not a per-channel affine",
    ),
    "computed slope": (lambda m, x: F.prelu(F.conv2d(x, m.w), x.mean().view(1)), "not a constant"),
    "broadcast": (lambda m, x: F.conv2d(x, m.w) + x.mean(), "broadcast"),
    "second clip": (lambda m, x: F.relu6(torch.clamp(F.conv2d(x, m.w), min=0.1)), "after another clip"),
    "norm after relu": (lambda m, x: F.batch_norm(F.relu(F.conv2d(x, m.w)), m.mean, m.var), "after a clip"),
    "along another dimension": (
        lambda m, x: torch.addcmul(m.wide, F.conv2d(x, m.w), m.wide), "does not act on the output channels",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLINED)
def test_what_stays_has_a_reason(case: str) -> None:
    function, reason = DECLINED[case]
    pipeline = fused_matches(function, torch.randn(2, 20, 9, 9), w=WEIGHT, wide=(7,), mean=(24,), var=(24,))
    assert any(reason in text for text in pipeline.declined.values()), pipeline.declined


def test_in_place_writes_that_others_see_are_left_alone() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = F.conv2d(x, m.w)
        z = y * 2
        y += z
        return F.relu(y) + z

    fused_matches(function, torch.randn(IMAGE), w=WEIGHT)


def test_a_graph_without_shapes_is_left_alone() -> None:
    net = Net(lambda m, x: F.relu(F.linear(x, m.w)), w=(24, 70))
    pipeline = CAPTURES["symbolic_trace"](net, torch.randn(5, 70)).pipeline()
    pipeline.fuse()
    assert pipeline.hoist() is None
