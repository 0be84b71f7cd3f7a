"""Each level's spec fails on what it forbids, naming the node and the stages that ran."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes import spec
from graphs import LEVELS, Net, dynamo
from torch import nn

from abcfx.pipeline import Pipeline
from abcfx.plan import LayerPlan, Plan


def pipeline(function=lambda m, x: F.linear(x, m.w)) -> Pipeline:
    return dynamo(Net(function, w=(8, 64)), torch.randn(2, 64)).pipeline()


def test_a_spelling_that_is_left() -> None:
    with pytest.raises(spec.SpecError, match=r"^linear \(.*\): a functional spelling .* that ran: canonicalize\."):
        spec.verify(pipeline().gm, spec.ATEN, ["canonicalize"])
    spec.verify(pipeline().gm, spec.ATEN, ["simulate"])  # a quantized model is never canonicalized


def test_a_declined_spelling_may_stay() -> None:
    gm = dynamo(Net(lambda m, x: F.linear(x, m.w), w=(64,)), torch.randn(2, 64)).pipeline().gm
    spec.verify(gm, spec.ATEN, ["canonicalize"], declined=["linear"])


def test_levels_of_the_wrong_length() -> None:
    p = pipeline()
    p.canonicalize()
    plan = Plan({"w": LayerPlan(2, 3, levels="thermometer")})
    with pytest.raises(spec.SpecError, match=r"scale has shape \[1\], thermometer levels need \[3\]"):
        p.rewrite(p.match(), plan, lambda site: LEVELS)


def test_an_abc_layer_that_is_left() -> None:
    p = pipeline()
    p.canonicalize()
    p.rewrite(p.match(), Plan({"w": LayerPlan()}), lambda site: LEVELS)
    with pytest.raises(spec.SpecError, match=r"lower should have replaced.*canonicalize, rewrite"):
        spec.verify(p.gm, spec.KERNEL, p.ran)


def test_planes_from_the_wrong_place() -> None:
    def function(net: Net, x: torch.Tensor) -> torch.Tensor:
        bits, levels = x.to(torch.int64)[None], net.w.new_ones(1)
        alpha = net.w.new_ones(2, 8)
        return torch.ops.abc_k.linear.default(
            bits, torch.zeros(1, 1, 2, 1, 8, dtype=torch.int64), alpha, alpha[:1].t(), None, levels, levels, "coded", 64
        )

    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return function(self, x)

    gm = torch.fx.symbolic_trace(Small())
    with pytest.raises(spec.SpecError, match=r"reads planes from .*getitem.*, not from pack_rows"):
        spec.verify(gm, spec.KERNEL, [])


def test_incomplete_arguments() -> None:
    gm = torch.fx.symbolic_trace(lambda x, w: torch.ops.aten.linear.default(x, w))
    with pytest.raises(spec.SpecError, match="not spelled as"):
        spec.verify(gm, spec.ATEN, [])
