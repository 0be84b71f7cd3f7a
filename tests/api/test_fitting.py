"""calibrate(fit=...): rows of inputs against im2col, and what becomes of the fitted weights."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import abcfx
from abcfx.layers.windows import window_rows
from abcfx.quant import activations
from abcfx.quant.weights import flatten_weight

CASES = {
    "3x3": dict(kernel_size=3, padding=1),
    "1x1 strided": dict(kernel_size=1, stride=2),
    "grouped, strided, dilated": dict(kernel_size=3, stride=2, padding=2, dilation=2, groups=2),
    "same, even kernel": dict(kernel_size=(2, 4), padding="same"),
    "reflect": dict(kernel_size=3, padding=1, padding_mode="reflect"),
}


@pytest.mark.filterwarnings("ignore:Using padding=.same.")
@pytest.mark.parametrize("case", CASES)
def test_rows_times_weight_are_the_outputs(case: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(4, 6, bias=False, **CASES[case]))
    x = torch.randn(2, 4, 7, 9)
    q = abcfx.quantize_model(model, 2, 2, first_last_float=False)
    abcfx.calibrate(q, [x], correct=False)
    layer = q[0]
    exact = model(activations.quantize(x, layer.activation_scale, layer.activation_shift, 2, "coded"))
    expected = exact.movedim(1, -1).reshape(-1, 6)
    places = torch.randperm(len(expected))
    weight = flatten_weight(model[0].weight.detach()).flatten(1).view(layer.groups, -1, model[0].weight[0].numel())
    got = torch.einsum("rgk,gqk->rgq", window_rows(layer, x, places), weight).flatten(1)
    torch.testing.assert_close(got, expected[places], rtol=1e-4, atol=1e-5)


def fitted_model() -> tuple[nn.Module, nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    x = torch.randn(400, 6) @ torch.randn(6, 24)
    q = abcfx.quantize_model(model, 3, 3, first_last_float=False)
    return model, abcfx.calibrate(q, list(x.split(100)), fit="compensate").eval(), x


def test_outputs_are_nearer_and_survive_every_copy(tmp_path) -> None:
    model, q, x = fitted_model()
    plain = abcfx.calibrate(abcfx.quantize_model(model, 3, 3, first_last_float=False), list(x.split(100))).eval()
    with torch.no_grad():
        exact, got = model(x), q(x)
        assert (got - exact).square().mean() < (plain(x) - exact).square().mean()
        loaded = abcfx.quantize_model(model, 3, 3, first_last_float=False)
        loaded.load_state_dict(q.state_dict())
        abcfx.save_packed(q, tmp_path / "model.abc")
        for other in (copy.deepcopy(q), loaded.eval(), abcfx.load_packed(tmp_path / "model.abc", model)):
            torch.testing.assert_close(other(x), got, rtol=1e-5, atol=1e-5)
    report = abcfx.fit_report(q)
    assert [layer.name for layer in report.layers] == ["0", "2", "4"]
    assert all(layer.after < layer.before for layer in report.layers)


def test_errors_and_reasons() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    q = abcfx.quantize_model(model, 2, 2, basis="greedy", first_last_float=False)
    with pytest.raises(ValueError, match="fit must be one of error, moments, compensate"):
        abcfx.calibrate(q, [torch.randn(99, 8)], fit="best")
    with pytest.raises(ValueError, match="no weights were fitted"):
        abcfx.fit_report(q)
    before = q[0].weight.clone()
    abcfx.calibrate(q, [torch.randn(99, 8)], fit="moments")
    assert torch.equal(q[0].weight, before)
    assert "fixed function" in abcfx.fit_report(q).layers[0].reason


@pytest.mark.parametrize("fit", ["error", "moments"])
def test_a_second_calibration_says_what_it_starts_from(fit: str) -> None:
    model, q, x = fitted_model()
    weight = q[0].weight.clone()
    with pytest.warns(UserWarning, match=r'fit="compensate".*quantize the float model again with') as caught:
        abcfx.calibrate(q, [x], fit=fit)
    assert caught[0].filename == __file__
    if fit == "error":
        assert torch.equal(q[0].weight, weight)
    abcfx.calibrate(abcfx.quantize_model(model, 3, 3, first_last_float=False), [x])  # the fresh start: no warning
