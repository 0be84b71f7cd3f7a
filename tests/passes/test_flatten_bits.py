"""Linear layers over the pixels of an image read its planes; what cannot has a reason."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from graphs import dynamo, targets
from test_emit_bits import counts, kept
from test_fuse import fused_matches
from torch import Tensor

from abcfx.ops.kernel_taps import rows_as_taps
from abcfx.ops.kernel_weights import pack_weights, weight_signs

pytestmark = pytest.mark.usefixtures("kernels")
X = (2, 20, 12, 10)


def head(m: Any, x: Tensor) -> Tensor:
    """VGG: pool, flatten, linear layers."""
    y = F.adaptive_avg_pool2d(F.max_pool2d(F.relu(F.conv2d(x, m.w, padding=1)), 2), (6, 5))
    y = F.dropout(F.relu(F.linear(torch.flatten(y, 1), m.a, m.b)), 0.5, False)
    return F.linear(y, m.c)


@pytest.mark.parametrize("channels", [24, 64, 70])
def test_the_head_of_a_vgg_reads_planes(channels: int) -> None:
    pipeline = fused_matches(
        head, torch.randn(X), w=(channels, 20, 3, 3), a=(40, 30 * channels), b=(40,), c=(9, 40)
    )  # fmt: skip
    assert counts(pipeline) == (1, 2)
    assert kept(pipeline) == [False, False]
    ops = targets(pipeline.gm)
    assert "abc_k.rows_as_taps.default" not in ops, "weights are put into order once, outside"
    assert "abc_k.linear.default" in ops, "the last layer has one pixel an image: its rows stay rows"


SPELLINGS = {
    "view": lambda y: y.view(y.shape[0], -1),
    "reshape": lambda y: y.reshape(2, 24 * 120),
    "flatten method": lambda y: y.flatten(1),
    "two steps": lambda y: y.reshape(2, 24, 120).flatten(1),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_of_flatten(spelling: str) -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        return F.linear(SPELLINGS[spelling](F.conv2d(x, m.w, padding=1).relu()), m.a)

    pipeline = fused_matches(function, torch.randn(X), w=(24, 20, 3, 3), a=(9, 24 * 120))
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]


def test_what_the_layer_fused_before_stays_with_it() -> None:
    def function(m: Any, x: Tensor, r: Tensor) -> Tensor:
        y = F.linear(F.conv2d(x, m.w, padding=1).relu().flatten(1), m.a, m.b)
        return F.prelu(F.batch_norm(y, m.mean, m.var) + r, m.slope)

    pipeline = fused_matches(
        function, torch.randn(X), torch.randn(2, 9), w=(24, 20, 3, 3), a=(9, 24 * 120), b=(9,), mean=(9,), var=(9,),
        slope=(9,),
    )  # fmt: skip
    assert counts(pipeline) == (1, 2)


def test_one_pixel_an_image() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        return F.linear(F.conv2d(x, m.w).relu().squeeze(3).squeeze(2), m.a)

    pipeline = fused_matches(function, torch.randn(2, 20, 3, 3), w=(70, 20, 3, 3), a=(9, 70))
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]


def test_leading_dimensions_come_and_go() -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = F.linear(x, m.w).view(6, 24).unsqueeze(0)
        return F.linear(y, m.v)

    pipeline = fused_matches(function, torch.randn(2, 3, 70), w=(24, 70), v=(9, 24))
    assert counts(pipeline) == (1, 1)
    assert kept(pipeline) == [False]


@pytest.mark.parametrize("dynamic", [False, True])
def test_a_batch_of_any_size(dynamic: bool) -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        return F.linear(F.conv2d(x, m.w, padding=1).relu().flatten(1), m.a)

    x = torch.randn(X)
    if dynamic:
        torch._dynamo.mark_dynamic(x, 0)
    shapes = {"w": (24, 20, 3, 3), "a": (9, 24 * 120)}
    pipeline = fused_matches(function, x, capture=partial(dynamo, dynamic=None), **shapes)
    assert counts(pipeline) == (1, 1)


DECLINED = {
    "no kernel": (lambda m, x: F.linear(x.sigmoid().flatten(1), m.x), "no kernel makes the image"),
    "average": (
        lambda m, x: F.linear(F.adaptive_avg_pool2d(F.conv2d(x, m.w, padding=1), 1).flatten(1), m.p),
        "no kernel makes the image",
    ),
    "parts of an image": (
        lambda m, x: F.linear(F.conv2d(x, m.w, padding=1).reshape(-1, 120), m.r),
        "other parts of the image than one image each",
    ),
    "pixels first": (
        lambda m, x: F.linear(F.conv2d(x, m.w, padding=1).permute(0, 2, 3, 1).flatten(1), m.a),
        "no kernel makes the image",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DECLINED)
def test_what_stays_has_a_reason(case: str) -> None:
    function, reason = DECLINED[case]
    shapes = {"w": (24, 20, 3, 3), "x": (9, 2400), "p": (9, 24), "r": (9, 120), "a": (9, 2880)}
    pipeline = fused_matches(function, torch.randn(X), **shapes)
    assert any(reason in said for said in pipeline.declined.values()), pipeline.declined


@pytest.mark.parametrize("lanes", [1, 8, 32, 64])
@pytest.mark.parametrize("outputs", [3, 20, 70, 200])
def test_weights_in_the_order_of_taps(lanes: int, outputs: int) -> None:
    m, channels, taps = 3, 70, 6
    bases = torch.randn(m, outputs, channels, taps).sign().to(torch.int8)
    alpha = torch.rand(m, outputs)
    made, sums = rows_as_taps(pack_weights(bases.view(m, outputs, 1, -1), 1, lanes), alpha, channels, taps)
    wanted = bases.transpose(2, 3)
    assert torch.equal(made, pack_weights(wanted.contiguous(), 1, lanes))
    assert torch.equal(weight_signs(made, m, outputs, taps, channels)[:, 0], wanted.float())
    torch.testing.assert_close(sums, torch.einsum("po,potc->ot", alpha, wanted.float()))
