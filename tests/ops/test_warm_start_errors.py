"""How close warm-started fits stay to those from scratch, and what is refused as a start."""

from __future__ import annotations

import pytest
import torch
from test_warm_start import RECIPE, momentum, quantized, task, train
from torch import nn

import abcfx
from abcfx.ops.weight_cache import fitted
from abcfx.quant.weights import dequantize_bases, flatten_weight


def test_after_100_steps_errors_are_those_of_cold_fits() -> None:
    """Within 2 % a layer of 144 weights a row or more; both are local optima, so either may be the better one."""
    for m in (2, 3):
        torch.manual_seed(5)
        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
            nn.Conv2d(32, 48, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(48 * 9, 64), nn.ReLU(), nn.Linear(64, 4),
        )  # fmt: skip
        model = abcfx.calibrate(abcfx.quantize_model(net, M=m, N=2), [task()[0]]).train()
        train(model, momentum(model, 0.01), range(100))
        model(task()[0])
        layers = [layer for layer in model.modules() if isinstance(layer, abcfx.layers.ABCLayer)]
        assert len(layers) == 3
        for layer in layers:
            flat = flatten_weight(layer.weight.detach()).flatten(1)
            errors = []
            for enabled in (True, False):
                with torch.set_grad_enabled(enabled):
                    bases, scales, _ = fitted(layer.weight, RECIPE._replace(weight_bases=m))
                errors.append(float((flat - dequantize_bases(bases, scales)).square().sum()))
            assert errors[0] != errors[1]  # else both were cold
            assert errors[0] <= 1.02 * errors[1], (m, layer.abc_name)


def test_bad_warm_starts_are_refused() -> None:
    model = quantized()
    train(model, momentum(model), range(1))
    starts = abcfx.warm_starts(model)
    name, tensor = next(iter(starts.items()))
    with pytest.raises(ValueError, match="'other.weight', but the model has no such parameter"):
        abcfx.restore_warm_starts(model, {f"other.weight|{name.rpartition('|')[2]}": tensor})
    with pytest.raises(ValueError, match=r"must be \[3, rows\], got \[2, "):
        abcfx.restore_warm_starts(model, {name: tensor[:2]})
    with pytest.raises(ValueError, match="'0.weight' is not the name of a warm start"):
        abcfx.restore_warm_starts(model, {"0.weight": tensor})
