"""A trained model computes the same wherever its state goes: copies, pickles, files and state_dicts."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
from torch import Tensor, nn

import abcfx


def save_and_load(model: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


def by_state_dict(model: nn.Module) -> nn.Module:
    new = quantized()
    new.load_state_dict(model.state_dict())
    return new


def float_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 8, 3))


def quantized() -> nn.Module:
    return abcfx.quantize_model(float_net(), 2, 2, first_last_float=False)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(8, 16, 6, 6)


@pytest.fixture
def trained(images: Tensor) -> nn.Module:
    model = abcfx.calibrate(quantized(), [images]).train()
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (model(images) - 1).square().mean().backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize("how", [copy.deepcopy, save_and_load, by_state_dict, lambda m: pickle.loads(pickle.dumps(m))])
def test_it_computes_what_training_used(how, trained: nn.Module, images: Tensor) -> None:
    want = trained(images).detach()
    with torch.no_grad():
        assert torch.equal(trained(images), want)
        assert torch.equal(how(trained).eval()(images), want)
    with torch.inference_mode():
        assert torch.equal(trained(images), want)


def test_without_its_starts_it_is_fitted_from_scratch(trained: nn.Module, images: Tensor) -> None:
    """What is loaded from elsewhere, a float checkpoint for one, has no starts; that is no error."""
    new = quantized()
    new.load_state_dict({k: v for k, v in trained.state_dict().items() if not k.endswith("weight_start")})
    with torch.no_grad():
        assert not torch.equal(new.eval()(images), trained(images))
