"""Training with warm-started fits: resumed bit for bit, recomputed forwards, and as close as fits from scratch."""

from __future__ import annotations

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from test_warm_start import LAYERS, RECIPE, Fits, momentum, quantized, task, train
from torch import nn
from torch.utils.checkpoint import checkpoint

import abcfx
from abcfx.ops.weight_cache import fitted
from abcfx.quant.weights import dequantize_bases, fit_bases, flatten_weight


def roundtrip(value: object) -> object:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("where", ["after a step", "before a step"])
@pytest.mark.parametrize("m", [2, 4])
def test_training_resumes_bit_for_bit(m: int, where: str) -> None:
    torch.manual_seed(3)
    model = quantized(m)
    start, optimizer = copy.deepcopy(model), momentum(model, 0.05)
    train(model, optimizer, range(6))
    if where == "before a step":  # the forward pass has fitted the live weights already
        model(task(6)[0])
    saved = roundtrip((model.state_dict(), optimizer.state_dict(), abcfx.warm_starts(model)))
    assert len(saved[2]) == LAYERS
    train(model, optimizer, range(6, 10))
    finals = []
    for starts in (saved[2], {}):
        resumed = copy.deepcopy(start)
        again = momentum(resumed, 0.05)
        resumed.load_state_dict(saved[0])
        again.load_state_dict(copy.deepcopy(saved[1]))
        abcfx.restore_warm_starts(resumed, starts)
        train(resumed, again, range(6, 10))
        finals.append(torch.cat([p.detach().flatten() for p in resumed.parameters()]))
    wanted = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert torch.equal(finals[0], wanted)
    assert not torch.equal(finals[1], wanted)  # else this test would show nothing


@pytest.mark.parametrize("reentrant", [True, False])
def test_recomputed_forwards_use_the_same_fit(reentrant: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fits = Fits(monkeypatch)
    torch.manual_seed(4)
    plain = quantized(3)
    for part in plain:
        if isinstance(part, nn.BatchNorm2d):
            part.eval()  # its running moments would be updated twice
    other = copy.deepcopy(plain)
    optimizers = momentum(plain), momentum(other)
    for step in range(3):
        x, y = task(step)
        F.cross_entropy(plain(x), y).backward()
        hidden = x.clone().requires_grad_()
        for part in other:
            hidden = checkpoint(part, hidden, use_reentrant=reentrant)
        F.cross_entropy(hidden, y).backward()
        for a, b in zip(plain.parameters(), other.parameters(), strict=True):
            assert torch.equal(a.grad, b.grad)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert fits.warm == 2 * 2 * LAYERS


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
            warm = fitted(layer.weight, RECIPE._replace(weight_bases=m))[:2]
            errors = [float((flat - dequantize_bases(*fit)).square().sum()) for fit in (warm, fit_bases(flat, m))]
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
