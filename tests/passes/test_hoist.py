"""What kernels read of constants alone becomes graph inputs, computed from the live tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes.hoist import hoist_constants
from graphs import Net, dynamo, run, targets, weight_tensors
from test_fuse import NORM, fused_matches, inputs_of, norm
from test_rewrite_abc import rewritten
from torch import Tensor

pytestmark = pytest.mark.usefixtures("kernels")


def prepared() -> tuple[Any, Any, list[Tensor], Any]:
    net = Net(lambda m, x: F.relu(norm(m, F.conv2d(x, m.w, padding=1))), w=(24, 20, 3, 3), **NORM).requires_grad_(False)
    net.var.abs_()
    captured = dynamo(net, torch.randn(2, 20, 9, 9))
    pipeline = captured.pipeline()
    added = rewritten(pipeline)
    lowered = pipeline.lower()
    tensors = [*captured.inputs, *added, *weight_tensors(captured, lowered)]
    pipeline.fuse()
    return net, pipeline, tensors, pipeline.hoist()


def test_folded_scales_leave_the_graph() -> None:
    _, pipeline, _, prologue = prepared()
    assert len(prologue.names) == 3, "α, tap sums and bias"
    assert [node.name for node in pipeline.gm.graph.find_nodes(op="placeholder")][-3:] == list(prologue.names)
    assert not [op for op in targets(pipeline.gm) if "mul" in op or "rsqrt" in op]
    assert hoist_constants(pipeline.gm) is None, "nothing is left"


def test_the_prologue_follows_the_live_tensors() -> None:
    net, pipeline, tensors, prologue = prepared()
    first = run(pipeline.gm, tensors, *inputs_of(None, pipeline, prologue, tensors))
    net.mean.add_(3.0)
    second = run(pipeline.gm, tensors, *inputs_of(None, pipeline, prologue, tensors))
    assert not torch.allclose(first, second)


def test_without_kernels_there_is_nothing_to_hoist() -> None:
    captured = dynamo(Net(lambda m, x: x * (m.a + m.b), a=(3,), b=(3,)).requires_grad_(False), torch.randn(3))
    pipeline = captured.pipeline()
    before = targets(pipeline.gm)
    pipeline.fuse()
    assert pipeline.hoist() is None
    assert targets(pipeline.gm) == before


def test_a_deep_graph_is_no_recursion() -> None:
    """What is no constant is found without walking the graph by recursion: networks are thousands of nodes deep."""

    def deep(m: Any, x: Tensor) -> Tensor:
        y = x
        for _ in range(1200):
            y = y + 1
        return F.conv2d(y, m.w, padding=1) + y.repeat(1, 2, 1, 1)[:, :24]

    captured = dynamo(Net(deep, w=(24, 20, 3, 3)).requires_grad_(False), torch.randn(1, 20, 3, 3))
    pipeline = captured.pipeline()
    rewritten(pipeline)
    pipeline.lower()
    pipeline.fuse()
    assert pipeline.hoist() is None


def test_what_is_written_to_a_copy_of_a_constant_stays() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        copied = m.u.clone()
        copied.mul_(2)
        return F.relu(norm(m, F.conv2d(x, m.w, padding=1))).mean((2, 3)) @ copied

    fused_matches(function, torch.randn(2, 20, 9, 9), w=(24, 20, 3, 3), u=(24, 4), **NORM)


def test_noise_is_no_constant() -> None:
    for noise in (torch.randn_like, torch.rand_like, lambda g: F.dropout(g, 0.5, True), lambda g: g.clone().normal_()):

        def function(m: Any, x: Tensor, noise=noise) -> Tensor:
            return torch.addcmul(m.b, F.linear(x, m.w), noise(m.g))

        net = Net(function, w=(24, 70), b=(24,), g=(24,)).requires_grad_(False)
        captured = dynamo(net, torch.randn(5, 70))
        pipeline = captured.pipeline()
        rewritten(pipeline)
        pipeline.lower()
        pipeline.fuse()
        assert pipeline.hoist() is None
