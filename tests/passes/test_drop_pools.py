"""Pooling of single pixels leaves the graph, other pooling does not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from graphs import aten_level, dynamo, targets
from test_fuse import fused_matches
from torch import Tensor, nn

pytestmark = pytest.mark.usefixtures("kernels")

NOTHING = {
    "window": lambda y: F.avg_pool2d(y, 1),
    "window and stride": lambda y: F.avg_pool2d(y, (1, 1), 1, 0, True),
    "adaptive": lambda y: F.adaptive_avg_pool2d(y, (7, 7)),
    "one size of its own": lambda y: F.adaptive_avg_pool2d(y, (None, 7)),
    "module": nn.AdaptiveAvgPool2d(7),
}
SOMETHING = {
    "stride": lambda y: F.avg_pool2d(y, 1, 2),
    "padding": lambda y: F.avg_pool2d(y, (1, 2), 1, (0, 1)),
    "divisor": lambda y: F.avg_pool2d(y, 1, divisor_override=2),
    "adaptive": lambda y: F.adaptive_avg_pool2d(y, (7, 6)),
}


@pytest.mark.parametrize("capture", [dynamo, aten_level], ids=["dynamo", "make_fx"])
@pytest.mark.parametrize("case", NOTHING)
def test_it_goes(case: str, capture: Callable) -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(NOTHING[case](F.conv2d(x, m.w, padding=1)), m.v)

    pipeline = fused_matches(function, torch.randn(2, 20, 7, 7), w=(24, 20, 3, 3), v=(8, 24, 1, 1), capture=capture)
    assert not [op for op in targets(pipeline.gm) if "avg_pool" in op]
    assert targets(pipeline.gm).count("abc_k.pack_image.default") == 1


@pytest.mark.parametrize("case", SOMETHING)
def test_it_stays(case: str) -> None:
    def function(m: nn.Module, x: Tensor) -> Tensor:
        return F.conv2d(SOMETHING[case](F.conv2d(x, m.w, padding=1)), m.v)

    pipeline = fused_matches(function, torch.randn(2, 20, 7, 7), w=(24, 20, 3, 3), v=(8, 24, 1, 1))
    assert [op for op in targets(pipeline.gm) if "avg_pool" in op]
    assert targets(pipeline.gm).count("abc_k.pack_image.default") == 2
