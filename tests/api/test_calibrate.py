"""Calibration: levels are fitted to real inputs, outputs corrected, and nothing else of the model changes."""

from __future__ import annotations

import copy

import pytest
import torch
from oracle import relative_error
from torch import Tensor, nn

import abcfx
from abcfx.layers import ABCLayer


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1), nn.Linear(64, 16)
        self.norm, self.drop = nn.BatchNorm2d(64), nn.Dropout(0.5)

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        x = self.norm(self.b(self.a(x).relu())).relu()
        return self.c(self.drop(x.mean((2, 3)))) * scale


@pytest.fixture
def batches() -> list[Tensor]:
    return [torch.randn(8, 32, 9, 9) for _ in range(3)]


@pytest.fixture
def net() -> Net:
    return Net().eval()


def quantize(net: nn.Module) -> nn.Module:
    return abcfx.quantize_model(net, 2, 2, first_last_float=False)


def layers(model: nn.Module) -> list[ABCLayer]:
    return [m for m in model.modules() if isinstance(m, ABCLayer)]


def test_every_form_of_batch_gives_the_same_levels(net: Net, batches: list[Tensor]) -> None:
    want = abcfx.calibrate(quantize(net), batches)
    forms = [
        [(x, torch.zeros(8)) for x in batches],
        [[x] for x in batches],
        [{"x": x} for x in batches],
        iter(batches),
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.cat(batches)), batch_size=8),
    ]
    others = [abcfx.calibrate(quantize(net), form) for form in forms]
    others.append(abcfx.calibrate(quantize(net), [batches], forward=lambda m, all_of_them: [m(x) for x in all_of_them]))
    others.append(quantize(net))
    with abcfx.calibration(others[-1]):
        for x in batches:
            others[-1](x)
    for other in others:
        for name, value in other.state_dict().items():
            assert torch.equal(value, want.state_dict()[name]), name


def test_the_same_data_gives_the_same_levels_again(net: Net, batches: list[Tensor]) -> None:
    q = abcfx.calibrate(quantize(net), batches)
    first = copy.deepcopy(q.state_dict())
    abcfx.calibrate(q, batches)
    assert all(torch.equal(value, first[name]) for name, value in q.state_dict().items())


def test_max_batches(net: Net, batches: list[Tensor]) -> None:
    one, limited = abcfx.calibrate(quantize(net), batches[:1]), abcfx.calibrate(quantize(net), batches, max_batches=1)
    assert torch.equal(one.c.activation_scale, limited.c.activation_scale)


def test_modes_statistics_and_gradients_are_left_alone(net: Net, batches: list[Tensor]) -> None:
    q = quantize(net.train())
    q.drop.eval()
    before = copy.deepcopy(q.norm.state_dict())
    abcfx.calibrate(q, batches)
    assert q.training
    assert not q.drop.training
    assert all(torch.equal(value, before[name]) for name, value in q.norm.state_dict().items())
    assert all(parameter.grad is None for parameter in q.parameters())


def test_the_fitted_levels_are_better_than_twice_or_half_as_wide(net: Net, batches: list[Tensor]) -> None:
    q = abcfx.calibrate(quantize(net), batches, correct=False)
    for layer in layers(q):
        seen: list[Tensor] = []
        with layer.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0])), torch.no_grad():
            q(batches[0])
        x, errors = seen[0], []
        for factor in (0.5, 1.0, 2.0):
            scale, shift = factor * layer.activation_scale, factor * layer.activation_shift
            errors.append(relative_error(torch.ops.abc.quantize_activation(x, scale, shift, 2, "coded"), x))
        assert errors[1] < min(errors[0], errors[2])


def test_correction_brings_the_output_closer(net: Net, batches: list[Tensor]) -> None:
    plain = abcfx.calibrate(quantize(net), batches, correct=False)
    corrected = abcfx.calibrate(quantize(net), batches)
    assert all(layer.output_gain is None for layer in layers(plain))
    assert all(layer.output_gain is not None for layer in layers(corrected))
    x = torch.randn(64, 32, 9, 9)
    with torch.no_grad():
        want = net(x)
        assert relative_error(corrected(x), want) < relative_error(plain(x), want)


def test_corrected_layers_have_the_mean_of_the_float_ones(net: Net, batches: list[Tensor]) -> None:
    """h = mean(y) − g·mean(z): on the calibration data the means agree, up to what sampled places leave open."""
    positive = [x.relu() for x in batches]
    x = torch.cat(positive)
    corrected, plain = (abcfx.calibrate(quantize(net), positive, correct=correct) for correct in (True, False))
    with torch.no_grad():
        want, off, left = ((model.a(x).mean((0, 2, 3))) for model in (net, plain, corrected))
    assert (left - want).norm() < 0.3 * (off - want).norm()


def test_an_exception_leaves_the_model_as_it_was(net: Net, batches: list[Tensor]) -> None:
    q = abcfx.calibrate(quantize(net), batches)
    before = copy.deepcopy(q.state_dict())

    def interrupted() -> None:
        with abcfx.calibration(q):
            q(3 * batches[0])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert all(torch.equal(value, before[name]) for name, value in q.state_dict().items())
    assert all(layer.observer is None for layer in layers(q))


def test_layers_without_data_are_named(batches: list[Tensor]) -> None:
    class Branch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Conv2d(32, 8, 1), nn.Conv2d(32, 8, 1)

        def forward(self, x: Tensor, other: bool = False) -> Tensor:
            return self.unused(x) if other else self.used(x)

    q = abcfx.quantize_model(Branch(), first_last_float=False)
    with pytest.warns(UserWarning, match="no calibration data reached: unused"):
        abcfx.calibrate(q, batches)
    q(batches[0])
    with pytest.raises(abcfx.NotCalibratedError, match="unused"):
        q(batches[0], other=True)


def test_a_compiled_model_can_be_calibrated(net: Net, batches: list[Tensor]) -> None:
    q = quantize(net)
    abcfx.calibrate(torch.compile(q, backend="abc"), batches)
    assert all(layer.calibrated for layer in layers(q))


def test_state_of_a_corrected_model_loads_into_a_plain_one_and_back(net: Net, batches: list[Tensor]) -> None:
    corrected, plain = abcfx.calibrate(quantize(net), batches), abcfx.calibrate(quantize(net), batches, correct=False)
    fresh = quantize(net)
    for state_of in (corrected, plain):
        fresh.load_state_dict(state_of.state_dict())
        with torch.no_grad():
            assert torch.equal(fresh(batches[0]), state_of(batches[0]))
