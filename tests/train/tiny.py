"""A tiny data set and networks that train on it in a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import abcfx
from abcfx.data import Dataset


def tiny_data(train: int = 64, test: int = 20) -> Dataset:
    """u8[n, 1, 8, 8] images whose class, 0 to 3, is the quarter that is bright."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(train + test) % 4
    images = torch.randint(0, 90, (train + test, 1, 8, 8), generator=generator)
    for image, label in zip(images, labels.tolist(), strict=True):
        image[0, 4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 150
    images = images.to(torch.uint8)
    return Dataset(
        "quarters", tuple("abcd"), images[:train], labels[:train], images[train:], labels[train:], (0.3,), (0.3,)
    )


class TinyNet(nn.Module):
    """f32[n, 1, 8, 8] → f32[n, 4]: conv, batch norm, a layer that is quantized, dropout, linear."""

    def __init__(self, norm: bool = True, dropout: float = 0.0) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8) if norm else nn.Identity()
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(8 * 16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv1(x)))
        return self.linear(self.dropout(torch.relu(self.conv2(x)).flatten(1)))


def quantized_net(norm: bool = True, dropout: float = 0.0, M: int = 2, N: int = 2) -> nn.Module:
    torch.manual_seed(3)
    model = abcfx.quantize_model(TinyNet(norm, dropout), M, N)
    return abcfx.calibrate(model, tiny_data().calibration_batches(64), progress=False)
