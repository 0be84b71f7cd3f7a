"""gradient_report against the noise of roundings that were really made."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

import abcfx
from abcfx.gradients import gradient_report
from abcfx.quant.gradients import gradient_step, quantize


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 32, 6, 6)


@pytest.fixture
def net(images: Tensor) -> nn.Module:
    body = nn.Sequential(nn.Conv2d(32, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10))
    return abcfx.calibrate(abcfx.quantize_model(body, first_last_float=False, grad_bases=4), [images], correct=False)


def loss_of(images: Tensor):
    return lambda model: model(images).square().sum()


def test_the_noise_is_that_of_real_roundings(net: nn.Module, images: Tensor) -> None:
    line = gradient_report(net, loss_of(images))[1]
    x = net[2](net[1](net[0](images))).detach()
    dy = 2 * net[3](x).detach()
    step = gradient_step(dy.amin(0), dy.amax(0), 4)
    powers = [(quantize(dy, step, torch.tensor([seed]), 4) - dy).square().sum() for seed in range(400)]
    want = 10 * torch.log10(dy.square().sum() / torch.stack(powers).mean())
    assert line.name == "3"
    assert line.grad_weight_db == pytest.approx(float(want), abs=0.5)  # 400 draws of some 40 terms: a few percent


@pytest.mark.parametrize("output", ["grad_input_db", "grad_weight_db"])
def test_a_plane_more_is_about_six_decibels(output: str, net: nn.Module, images: Tensor) -> None:
    """Half the step is a quarter of the noise where t is spread over many codes."""
    found = [getattr(gradient_report(net, loss_of(images), k)[0], output) for k in (5, 6, 7, 8)]
    assert all(4 < b - a < 8 for a, b in pairwise(found))


def test_one_plane_loses_most(net: nn.Module, images: Tensor) -> None:
    one, two = (gradient_report(net, loss_of(images), k)[0].grad_input_db for k in (1, 2))
    assert one < 0 < gradient_report(net, loss_of(images), 6)[0].grad_input_db
    assert one < two


def test_gradients_stay_as_they_were(net: nn.Module, images: Tensor) -> None:
    net(images).sum().backward()
    before = {name: p.grad for name, p in net.named_parameters()}
    gradient_report(net, loss_of(images))
    assert all(p.grad is before[name] for name, p in net.named_parameters())


def test_errors_say_what_to_do(images: Tensor) -> None:
    with pytest.raises(ValueError, match="no quantized layer"):
        gradient_report(nn.Linear(3, 3), lambda model: model(images).sum())
    plain = abcfx.quantize_model(nn.Linear(8, 8), first_last_float=False)
    with pytest.raises(ValueError, match="give grad_bases"):
        gradient_report(plain, lambda model: model(images).sum())
