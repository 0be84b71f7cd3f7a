"""What the network promises before it has learned anything."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from torch.nn import functional as F

from abcfx.data import Dataset


@pytest.fixture
def models(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("models_whitened")


@pytest.fixture
def data() -> Dataset:
    """Images whose channels and neighbouring pixels go together, as in photographs."""
    coarse = torch.rand(64, 1, 8, 8) + 0.2 * torch.rand(64, 3, 8, 8)
    images = F.interpolate(coarse, size=32, mode="bilinear") + 0.05 * torch.rand(64, 3, 32, 32)
    pixels = (images / images.max() * 255).to(torch.uint8)
    labels = torch.arange(64) % 10
    return Dataset("made here", tuple("0123456789"), pixels, labels, pixels, labels, (0.5,) * 3, (0.25,) * 3)


def test_patches_come_out_uncorrelated_and_of_variance_one(models: ModuleType, data: Dataset):
    model = models.whitened_cnn()
    model.whiten(data)
    with torch.no_grad():
        out = model.whitening(data.prepare(data.train_x)).transpose(0, 1).flatten(1)
    torch.testing.assert_close(out[12:], -out[:12])
    covariance = torch.cov(out[:12].double())
    torch.testing.assert_close(covariance - covariance.diag().diag(), torch.zeros(12, 12).double(), atol=1e-3, rtol=0)
    assert (covariance.diag()[-9:] > 0.7).all()  # directions of little variance are held back by the 5e-4
    assert (covariance.diag() <= 1).all()


def test_convolutions_begin_as_the_identity(models: ModuleType):
    conv = models.whitened_cnn().blocks[0]
    x = torch.randn(2, 24, 9, 9)
    torch.testing.assert_close(conv(x)[:, :24], x)


def test_the_weights_of_whitening_and_the_scales_of_norms_stay(models: ModuleType, data: Dataset):
    model = models.whitened_cnn()
    model(data.prepare(data.train_x)).square().mean().backward()
    still = {name for name, p in model.named_parameters() if p.grad is None}
    norms = {f"blocks.{i}.weight" for i, m in enumerate(model.blocks) if isinstance(m, torch.nn.BatchNorm2d)}
    assert still == {"whitening.weight", *norms}
