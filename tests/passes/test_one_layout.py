"""A region of quantized convolutions is channels_last: what enters it is converted once, and nothing inside it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes._layouts import passes_strides
from test_fuse import NORM, fused_matches, norm
from torch import Tensor, nn

import abcfx
from abcfx import backend
from abcfx.graph import value

pytestmark = pytest.mark.usefixtures("kernels")
WEIGHT = {"w": (24, 24, 3, 3), "v": (24, 24, 3, 3)}
aten, abc_k = torch.ops.aten, torch.ops.abc_k


def conversions(gm: torch.fx.GraphModule) -> int:
    return sum(node.target is aten.clone.default for node in gm.graph.nodes)


def copied_inside(gm: torch.fx.GraphModule) -> list[str]:
    """Kernels that must copy an operand into their own order, and glue that reads images of two orders."""
    found = []
    for node in gm.graph.nodes:
        tensors = [value(n) for n in node.all_input_nodes if isinstance(value(n), Tensor)]
        images = [t for t in tensors if t.dim() == 4 and t.shape[2:].numel() > 1]
        if node.target is abc_k.conv2d_emit.default and not all(t.is_contiguous() for t in tensors):
            found.append(node.name)
        elif passes_strides(node) and len({t.is_contiguous(memory_format=torch.channels_last) for t in images}) > 1:
            found.append(node.name)
    return found


def blocks(m: Any, x: Tensor) -> Tensor:
    x = F.max_pool2d(x, 3, 2, 1)
    for _ in range(2):
        y = F.relu(norm(m, F.conv2d(x, m.w, padding=1)))
        x = F.relu(F.conv2d(y, m.v, padding=1) + x)
    return F.adaptive_avg_pool2d(x, (1, 1)).flatten(1)


def test_a_residual_from_outside_is_converted_once() -> None:
    pipeline = fused_matches(blocks, torch.randn(2, 24, 16, 16), **WEIGHT, **NORM)
    assert conversions(pipeline.gm) == 1
    assert copied_inside(pipeline.gm) == []


def test_channels_last_models_need_none() -> None:
    x = torch.randn(2, 24, 16, 16).contiguous(memory_format=torch.channels_last)
    assert conversions(fused_matches(blocks, x, **WEIGHT, **NORM).gm) == 0


def test_a_tensor_of_several_readers_is_converted_once() -> None:
    """A dense block: every concatenation meets what came from outside."""

    def dense(m: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2)
        y = F.conv2d(F.relu(x), m.w, padding=1)
        z = F.conv2d(F.relu(x + y), m.v, padding=1)
        return torch.cat([x, y, z], 1).mean((2, 3))

    pipeline = fused_matches(dense, torch.randn(2, 24, 16, 16), **WEIGHT)
    assert conversions(pipeline.gm) == 1
    assert copied_inside(pipeline.gm) == []


def test_what_is_only_packed_is_not_converted() -> None:
    pipeline = fused_matches(lambda m, x: F.conv2d(x, m.w).mean((2, 3)), torch.randn(2, 24, 9, 9), w=WEIGHT["w"])
    assert conversions(pipeline.gm) == 0


def test_strides_that_somebody_sees_stay() -> None:
    """The output has the strides of the captured graph (fused_matches compares them)."""
    last = torch.randn(2, 24, 9, 9).contiguous(memory_format=torch.channels_last)
    seen = lambda m, x, r: torch.cat([r, F.conv2d(x, m.w, padding=1)], 1)  # noqa: E731
    pipeline = fused_matches(seen, last, torch.randn(2, 24, 9, 9), w=WEIGHT["w"])
    assert conversions(pipeline.gm) == 0
    assert any("are seen" in reason for reason in pipeline.declined.values())


def test_a_tensor_that_is_written_later_is_not_converted() -> None:
    def written(m: Any, x: Tensor) -> Tensor:
        x = F.max_pool2d(x, 2)
        y = F.relu(F.conv2d(x, m.w, padding=1) + x)
        x.add_(1.0)
        return (y + x).mean((2, 3))

    pipeline = fused_matches(written, torch.randn(2, 24, 16, 16), w=WEIGHT["w"])
    assert conversions(pipeline.gm) == 0
    assert any("written in place" in reason for reason in pipeline.declined.values())


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(64, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()) for _ in range(4)
        )
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.stem(x)), 2)
        for first, second in zip(self.blocks[::2], self.blocks[1::2], strict=True):
            x = F.relu(second[:2](first(x)) + x)
        return self.head(F.adaptive_avg_pool2d(x, (1, 1)).flatten(1))


def test_a_compiled_network_converts_nothing_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABCFX_FORM", "xnor")
    monkeypatch.setenv("ABCFX_VERIFY", "1")
    graphs = []
    original = backend.Pipeline.fuse
    monkeypatch.setattr(backend.Pipeline, "fuse", lambda p: (original(p), graphs.append(p.gm))[0])
    torch.manual_seed(0)
    model, x = Residual().eval(), torch.randn(2, 3, 32, 32)
    q = abcfx.calibrate(abcfx.quantize_model(model, 2, 2), [x], progress=False)
    got = {}
    with torch.no_grad():
        for skipped in ("", "OneLayout"):
            monkeypatch.setenv("ABCFX_SKIP", skipped)
            torch._dynamo.reset()
            got[skipped] = torch.compile(q, backend="abc", options={"then": "aot_eager"})(x)
    with_it, without = graphs
    assert conversions(with_it) == 1
    assert copied_inside(with_it) == []
    assert copied_inside(without) != []
    assert torch.equal(got[""], got["OneLayout"])
