"""compare_forms: agrees on sound kernels, and names the layer whose kernel was broken on purpose."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import abcfx
from abcfx.layers import ABCLayer
from abcfx.ops import library, linear
from abcfx.ops.choose import forcing

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


@pytest.mark.parametrize("form", ["xnor", "lut"])
def test_all_layers_agree(quantized: nn.Module, images: Tensor, form: str) -> None:
    comparison = abcfx.compare_forms(quantized, images, form=form)
    assert [layer.name for layer in comparison.layers] == ["body", "down", "narrow", "hidden", "shared"]
    assert comparison.first_difference is None
    assert {layer.form for layer in comparison.layers} <= {form, "dense"}
    assert sum(layer.form == form for layer in comparison.layers) >= 3
    assert all(layer.error <= layer.tolerance for layer in comparison.layers)
    assert "packed equals dequantized in every layer" in str(comparison)


def test_decibels_are_those_of_explain(quantized: nn.Module, images: Tensor, explanation) -> None:
    comparison = abcfx.compare_forms(quantized, images)
    explained = {layer.name: layer for layer in explanation.layers}
    for layer in comparison.layers:
        assert layer.alone_db == pytest.approx(explained[layer.name].alone_db, abs=1e-3)
        assert layer.packed_db == pytest.approx(explained[layer.name].running_db, abs=1e-3)


def test_the_first_wrong_layer_is_named_though_all_after_it_differ(
    quantized: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = copy.deepcopy(quantized)
    original = abcfx.layers.convolution.ABCConv2d.forward

    def forward(self: ABCLayer, input: Tensor) -> Tensor:
        out = original(self, input)
        packed = abcfx.ops.choose.forced_form() == "xnor" and self.observer is None
        return out + 1e-3 * out.abs().max() if packed and self.abc_name == "down" else out

    monkeypatch.setattr(abcfx.layers.convolution.ABCConv2d, "forward", forward)
    comparison = abcfx.compare_forms(broken, images)
    assert comparison.first_difference.name == "down"
    assert [layer.name for layer in comparison.layers if layer.differs] == ["down"]  # later ones get the right input
    assert comparison.output_error > 0
    assert "down is the first layer whose packed form is wrong" in str(comparison)


def test_a_kernel_that_gives_nan_is_wrong(
    quantized: nn.Module, images: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = linear.on_planes
    monkeypatch.setattr(linear, "on_planes", lambda *args: original(*args) * math.nan)
    assert abcfx.compare_forms(quantized, images).first_difference.name == "shared"


def test_half_precision_is_allowed_its_rounding() -> None:
    model = nn.Sequential(*(nn.Linear(64, 64) for _ in range(4))).eval().bfloat16()
    x = torch.randn(8, 64).bfloat16()
    q = abcfx.calibrate(abcfx.quantize_model(model), [x], progress=False)
    comparison = abcfx.compare_forms(q, x)
    assert comparison.first_difference is None
    assert {layer.tolerance for layer in comparison.layers} == {torch.finfo(torch.bfloat16).eps}


def test_errors(net: nn.Module, quantized: nn.Module, images: Tensor) -> None:
    with pytest.raises(ValueError, match="has no quantized layer"):
        abcfx.compare_forms(net, images)
    with pytest.raises(ValueError, match='form must be "xnor" or "lut", got \'dense\''):
        abcfx.compare_forms(quantized, images, form="dense")
    with forcing("dense"):  # a form that is forced outside does not matter
        assert abcfx.compare_forms(quantized, images).layers[0].form == "xnor"
