"""What a layer on a CUDA device gets, with the loaded library faked: no GPU is needed to decide."""

from __future__ import annotations

import pytest
import torch
from abcfx.passes.lower import packed_shapes

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_weights, library_cuda
from abcfx.ops.choose import choose, forcing
from abcfx.ops.kernel_weights import CUDA_LANES, lanes_of, packed_shape, weight_signs
from abcfx.ops.weight_cache import WeightRecipe
from abcfx.ops.workload import Workload
from abcfx.plan import LayerPlan
from abcfx.planner import costs

CUDA = torch.device("cuda", 0)
BIG = Workload.linear((4096, 4096), torch.float32, (4096, 4096), True)


def pretend(monkeypatch: pytest.MonkeyPatch, variant: str) -> None:
    monkeypatch.setattr(library_cuda, "variant", lambda index=None: variant)


def test_without_the_library_layers_are_dense_and_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, library_cuda.NO_KERNELS)
    monkeypatch.setattr(library_cuda, "_load", lambda: (None, "it is\nnot installed"))
    with forcing("xnor"):
        choice = choose(BIG, LayerPlan(1, 1), CUDA)
    assert (choice.form, choice.reason) == ("dense", "it is not installed")


@pytest.mark.parametrize(
    ("variant", "form"), [("sm_75", "xnor"), ("sm_90", "xnor"), ("sm_100", "dense"), ("sm_120", "dense")]
)
def test_bit_units_decide(variant: str, form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, variant)
    choice = choose(BIG, LayerPlan(1, 1), CUDA)
    assert choice.form == form
    assert variant in choice.reason
    assert set(choice.ms) == ({"xnor", "dense"} if form == "xnor" else set())


def test_threads_of_the_cpu_do_not_matter_and_tables_are_not_for_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "sm_80")
    with forcing("lut"):
        assert "one for CPUs" in choose(BIG, LayerPlan(1, 1), CUDA).reason
    assert "thread" not in choose(BIG, LayerPlan(1, 1), CUDA).reason
    wide = Workload.convolution(
        (64, 64, 1, 33), torch.float32, (1, 64, 1, 99), ((1, 1), (0, 0), (1, 1), False, (0, 0), 1)
    )
    assert "33 taps along an axis" in choose(wide, LayerPlan(1, 1), CUDA).reason


def test_weights_have_the_layout_of_the_device() -> None:
    bases = torch.randint(0, 2, (2, 12, 9, 70), dtype=torch.int8) * 2 - 1
    assert (lanes_of("xnor", CUDA), lanes_of("xnor", torch.device("cpu")), lanes_of("xnor")) == (CUDA_LANES, 8, 8)
    packed = kernel_weights.pack_weights(bases, 3, CUDA_LANES)
    assert packed.shape == packed_shape(2, 12, 9, 70, 3, CUDA_LANES) == (3, 2, 4, 18)
    assert torch.equal(weight_signs(packed, 2, 4, 9, 70).reshape(2, 12, 9, 70), bases.float())
    recipe = WeightRecipe(2, "alternating", True, False, 3, "xnor")
    assert packed_shapes((12, 70, 3, 3), recipe, CUDA)["bits"] == ((3, 2, 4, 18), torch.int64)
    assert packed_shapes((12, 70, 3, 3), recipe, torch.device("cpu"))["bits"] == ((3, 1, 2, 18, 8), torch.int64)


def test_the_planner_asks_for_the_kernels_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, "sm_80")
    met = costs.Met([BIG], [])
    ms, (quantized,) = costs.milliseconds(met, [LayerPlan(1, 1)], CUDA, "predicted")
    assert 0 < quantized < ms
