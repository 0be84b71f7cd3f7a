"""Consecutive kernel layers exchange planes: the pack of one moves into the product before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import targets
from test_fuse import NORM, fused_matches, norm
from torch import Tensor

pytestmark = pytest.mark.usefixtures("kernels")
IMAGE, WEIGHT, NEXT = (2, 20, 9, 9), (24, 20, 3, 3), (20, 24, 3, 3)


def counts(pipeline: Any) -> tuple[int, int]:
    """(packs left, products that emit)"""
    ops = targets(pipeline.gm)
    return sum(op.startswith("abc_k.pack_") for op in ops), sum("_emit" in op for op in ops)


def kept(pipeline: Any) -> list[bool]:
    """Of each emitting product in order: whether it writes floats."""
    return [node.args[-1] for node in pipeline.gm.graph.nodes if "_emit" in str(node.target)]


def test_planes_instead_of_floats() -> None:
    def two(m: Any, x: Tensor) -> Tensor:
        y = F.relu(norm(m, F.conv2d(x, m.w, padding=1)))
        return F.conv2d(y, m.v, m.b, 2, (1, 2))

    pipeline = fused_matches(two, torch.randn(IMAGE), w=WEIGHT, v=NEXT, b=(20,), **NORM)
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]


def test_a_residual_keeps_the_floats_too() -> None:
    def block(m: Any, x: Tensor) -> Tensor:
        y = F.relu(norm(m, F.conv2d(x, m.w, padding=1)))
        z = F.relu(F.conv2d(y, m.v, m.b, padding=1))
        return F.conv2d(z, m.w, padding=1) + y

    pipeline = fused_matches(block, torch.randn(IMAGE), w=WEIGHT, v=NEXT, b=(20,), **NORM)
    assert counts(pipeline) == (1, 3)
    assert kept(pipeline) == [True, False, True]


def test_a_batch_norm_in_front_of_the_next_layer() -> None:
    """Pre-activation blocks: the floats go on as they are, the planes are of the normalized ones."""

    def block(m: Any, x: Tensor) -> Tensor:
        y = F.conv2d(x, m.w, padding=1)
        return F.conv2d(F.relu(norm(m, y), inplace=True), m.v, padding=1).repeat(1, 2, 1, 1)[:, :24] + y

    pipeline = fused_matches(block, torch.randn(IMAGE), w=WEIGHT, v=NEXT, **NORM)
    assert counts(pipeline)[0] == 1
    assert kept(pipeline)[0] is True
    assert not {"batch_norm", "relu"} & set(targets(pipeline.gm))


def test_two_readers_with_levels_of_their_own() -> None:
    """One of them gets planes; the other packs the floats."""

    def fork(m: Any, x: Tensor) -> Tensor:
        y = F.relu(F.conv2d(x, m.w, padding=1))
        return F.conv2d(y, m.v, padding=1) + F.conv2d(y, m.u)

    pipeline = fused_matches(fork, torch.randn(IMAGE), w=WEIGHT, v=NEXT, u=(20, 24, 1, 1))
    assert counts(pipeline)[0] == 2
    assert kept(pipeline)[0] is True
    assert any("emits planes for another reader" in reason for reason in pipeline.declined.values())


@pytest.mark.parametrize("shape", [(5, 70), (2, 3, 70)], ids=str)
def test_linear_layers(shape: tuple) -> None:
    pipeline = fused_matches(
        lambda m, x: F.linear(F.relu(F.linear(x, m.w, m.b)), m.v), torch.randn(shape), w=(24, 70), b=(24,), v=(9, 24)
    )
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]


STAYS = {
    "another function between": lambda m, x: F.conv2d(F.gelu(F.conv2d(x, m.w)), m.v),
    "a pool between": lambda m, x: F.conv2d(F.avg_pool2d(F.conv2d(x, m.w), 2), m.v),
    "rows cut otherwise": lambda m, x: F.linear(F.linear(x.flatten(1)[:, :40], m.a).view(-1, 20), m.c),
}


@pytest.mark.parametrize("case", STAYS)
def test_packs_that_cannot_move_stay(case: str) -> None:
    pipeline = fused_matches(STAYS[case], torch.randn(IMAGE), w=WEIGHT, v=NEXT, a=(40, 40), c=(9, 20))
    assert counts(pipeline)[0] == 2
