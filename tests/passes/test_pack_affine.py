"""Batch norm and ReLU in front of a pack that no product feeds move into it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import targets
from test_fuse import NORM, fused_matches, norm
from torch import Tensor

pytestmark = pytest.mark.usefixtures("kernels")
IMAGE, WEIGHT = (2, 24, 9, 9), (8, 24, 3, 3)
NAN = torch.randn(IMAGE)
NAN[0, 0, 4, 4] = torch.nan


def affine_packs(pipeline: Any) -> int:
    nodes = pipeline.gm.graph.nodes
    return sum("abc_k.pack_" in str(n.target) and len(n.args) > 7 for n in nodes)


def dense_block(m: Any, x: Tensor) -> Tensor:
    """DenseNet: every layer reads what all before it made."""
    y = F.conv2d(F.relu(norm(m, x)), m.w, padding=1)
    both = torch.cat([x, y], 1)
    z = F.conv2d(F.relu(F.batch_norm(both, m.mean2, m.var2, m.gain2, m.shift2)), m.v, padding=1)
    return torch.cat([both, z], 1)


def test_a_dense_block() -> None:
    pipeline = fused_matches(
        dense_block, torch.randn(IMAGE), w=WEIGHT, v=(8, 32, 3, 3), mean2=(32,), var2=(32,), gain2=(32,), shift2=(32,),
        **NORM,
    )  # fmt: skip
    assert affine_packs(pipeline) == 2
    assert not {"batch_norm", "relu"} & set(targets(pipeline.gm))


CHAINS = {
    "norm": norm,
    "norm, relu": lambda m, x: F.relu(norm(m, x), inplace=True),
    "norm, relu6": lambda m, x: F.relu6(norm(m, x)),
    "norm, clamp": lambda m, x: torch.clamp(norm(m, x), -0.5, 0.25),
    "affine": lambda m, x: torch.addcmul(m.shift.view(-1, 1, 1), x, m.gain.view(-1, 1, 1)),
    "one value": lambda m, x: torch.addcmul(m.one, x, m.one).relu(),
}


@pytest.mark.parametrize("x", [torch.randn(IMAGE), NAN], ids=["numbers", "with a NaN"])
@pytest.mark.parametrize("chain", CHAINS)
def test_chains(chain: str, x: Tensor) -> None:
    """Levels of the tests begin at -1: a ReLU is not absorbed by them."""
    pipeline = fused_matches(lambda m, x: F.conv2d(CHAINS[chain](m, x), m.w), x, w=WEIGHT, one=(1,), **NORM)
    assert affine_packs(pipeline) == 1
    assert not [op for op in targets(pipeline.gm) if op in ("batch_norm", "relu", "relu6", "clamp", "addcmul")]


def test_rows() -> None:
    pipeline = fused_matches(
        lambda m, x: F.linear(F.relu(norm(m, x)), m.w), torch.randn(5, 24), w=(9, 24), **NORM
    )  # fmt: skip
    assert not {"batch_norm", "relu"} & set(targets(pipeline.gm))


DECLINED = {
    "other readers": (lambda m, x: (lambda y: F.conv2d(y, m.w)[:, :1] + y.mean())(F.relu(norm(m, x))), "other readers"),
    "relu alone": (lambda m, x: F.conv2d(F.relu(x), m.w), "no per-channel affine"),
    "along another dimension": (
        lambda m, x: F.conv2d(torch.addcmul(m.wide, x, m.wide), m.w), "does not act on the channels",
    ),
    "one value": (lambda m, x: F.conv2d(torch.clamp(norm(m, x), 0.5, 0.5), m.w), "limits of its clip are one value"),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLINED)
def test_what_stays_has_a_reason(case: str) -> None:
    function, reason = DECLINED[case]
    pipeline = fused_matches(function, torch.randn(IMAGE), w=WEIGHT, wide=(9,), **NORM)
    assert any(reason in said for said in pipeline.declined.values()), pipeline.declined
    assert affine_packs(pipeline) == 0
