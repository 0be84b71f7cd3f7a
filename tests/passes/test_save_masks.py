"""What a compiled training step keeps of comparisons: bytes, not bools."""

from __future__ import annotations

import pytest
import torch
from abcfx.passes.save_masks import hand_over_bytes
from graphs import assert_gradients_of_eager, kept_by_step
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

import abcfx


class Clipped(nn.Module):
    """Two quantized layers, each with an activation behind it whose gradient is masked."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.second = nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.first(x)) + x)
        return nn.functional.hardtanh(self.second(x), -0.5, 0.5)


@pytest.mark.parametrize("recompute", [True, False])
def test_a_compiled_step_keeps_no_bool_and_has_the_gradients_of_eager(recompute: bool) -> None:
    x = torch.randn(2, 16, 10, 10)
    model = abcfx.calibrate(abcfx.quantize_model(Clipped(), 2, 2, first_last_float=False), [x]).train()
    compiled = torch.compile(model, backend="abc", fullgraph=True, options={"recompute": recompute})
    assert torch.bool not in [tensor.dtype for tensor in kept_by_step(compiled, x)]
    assert_gradients_of_eager(model, x)


def halves() -> tuple[GraphModule, GraphModule]:
    """ReLU in two graphs: the first returns y and keeps y <= 0 (twice), the second masks a gradient with it."""

    def forward(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.relu(x)
        mask = y <= 0
        return y, mask, mask

    def backward(le: Tensor, tangents_1: Tensor) -> Tensor:
        return torch.where(le, 0.0, tangents_1)

    x = torch.randn(6)
    first, second = make_fx(forward, tracing_mode="fake")(x), make_fx(backward, tracing_mode="fake")(x <= 0, x)
    le = second.graph.find_nodes(op="placeholder")[0]
    le.name = le.target = "le"
    return first, second


def test_gradients_behind_the_byte_are_exact() -> None:
    """The same zeros and the same gradients, infinite ones among them, also where x is not a number."""
    x = torch.tensor([-1.0, 0.0, 2.0, -3.0, 1e-40, torch.nan])
    g = torch.tensor([torch.inf, 1.0, torch.inf, torch.nan, 4.0, 5.0])
    forward, backward = halves()
    y, mask, _ = forward(x)
    wanted = backward(mask, g)
    hand_over_bytes(forward, backward, num_fwd_outputs=2)
    again, same, kept = forward(x)
    assert same.dtype == torch.bool  # an output of the model, which stays
    assert kept.dtype == torch.uint8
    assert torch.equal(again.nan_to_num(9.0), y.nan_to_num(9.0))
    assert torch.equal(backward(kept, g).nan_to_num(9.0), wanted.nan_to_num(9.0))
    for half in (forward, backward):
        half.graph.lint()


def test_bools_that_the_user_gave_are_not_copied() -> None:
    def forward(le: Tensor) -> tuple[Tensor]:
        return (le,)

    first = make_fx(forward, tracing_mode="fake")(torch.ones(6, dtype=torch.bool))
    _, second = halves()
    first.graph.find_nodes(op="placeholder")[0].name = "le"
    hand_over_bytes(first, second, num_fwd_outputs=0)
    assert first(torch.ones(6, dtype=torch.bool))[0].dtype == torch.bool
