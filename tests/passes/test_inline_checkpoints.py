"""Checkpoint bodies, nested ones too, take the place of the call; values and everything else stay."""

from __future__ import annotations

import torch
from abcfx.passes.inline_checkpoints import inline_checkpoints
from graphs import Net, dynamo, run, targets
from torch.utils.checkpoint import checkpoint

from abcfx.graph import clone, text


def recompute(function, *inputs):
    return checkpoint(function, *inputs, use_reentrant=False)


def nested(net: Net, x: torch.Tensor) -> torch.Tensor:
    def inner(y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return y * net.w, y + 1

    def outer(y: torch.Tensor) -> torch.Tensor:
        first, second = recompute(inner, y)
        return first.relu() - second

    return recompute(outer, x) * 3


def test_before_becomes_expected() -> None:
    x = torch.randn(2, 4)
    captured = dynamo(Net(nested, w=(4,)), x)
    gm = clone(captured.gm)
    assert inline_checkpoints(gm) == 2

    def expected(net: Net, x: torch.Tensor) -> torch.Tensor:
        return ((x * net.w).relu() - (x + 1)) * 3

    assert sorted(targets(gm)) == sorted(targets(dynamo(Net(expected, w=(4,)), x).gm))
    with torch.no_grad():
        assert torch.equal(run(gm, captured.inputs), run(captured.gm, captured.inputs))


def test_idempotent_and_nothing_else_touched() -> None:
    captured = dynamo(Net(lambda m, x: (x * m.w).relu(), w=(4,)), torch.randn(2, 4))
    gm = clone(captured.gm)
    before = text(gm)
    assert inline_checkpoints(gm) == 0
    assert text(gm) == before


def test_dropout_free_bodies_keep_their_values_in_meta() -> None:
    gm = clone(dynamo(Net(nested, w=(4,)), torch.randn(2, 4)).gm)
    inline_checkpoints(gm)
    called = [node for node in gm.graph.nodes if node.op in ("call_function", "call_method")]
    assert all("example_value" in node.meta for node in called)
