"""The lines to paste that explain() gives for layers that are on bits already."""

from __future__ import annotations

import pytest
import torch

from abcfx import debug
from abcfx.explain.advice import line_for_kernel
from abcfx.ops import choose
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan

GEOMETRY = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1)
CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("kernels", "plan", "wanted"),
    [
        (("avx512vpopcnt", "amx"), LayerPlan(3, 2), "abcfx.quantize_model(model, M=3, N=2, basis='coded')"),
        (("avx512vpopcnt", "amx"), LayerPlan(3, 2, "coded"), "abcfx.quantize_model(model, M=3, N=2, exclude=['conv'])"),
        (("avx512vpopcnt", "amx"), LayerPlan(1, 2), "abcfx.quantize_model(model, M=1, N=2, exclude=['conv'])"),
        (("avx2", "avx2"), LayerPlan(3, 2), "abcfx.quantize_model(model, M=3, N=2, exclude=['conv'])"),
    ],
    ids=str,
)
def test_coded_weights_where_they_are_faster(
    kernels: tuple[str, str], plan: LayerPlan, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choose, "runs_on", lambda device: (kernels, 2))
    monkeypatch.delenv(debug.FORM, raising=False)
    work = Workload.convolution((128, 128, 3, 3), torch.float32, (8, 128, 28, 28), GEOMETRY, True, True)
    with choose.tuning(False):
        assert line_for_kernel("conv", work, plan, CPU) == wanted
