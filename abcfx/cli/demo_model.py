"""The float model of the demo: a wide eight-layer ResNet, and the weights that ship with the package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

WEIGHTS = Path(__file__).parents[1] / "data" / "demo_model.npz"


class ResidualBlock(nn.Module):
    """y = relu(bn(conv(relu(bn(conv(x))))) + shortcut(x)), both convolutions 3x3."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            projection = nn.Conv2d(channels_in, channels, 1, stride, bias=False)
            self.shortcut = nn.Sequential(projection, nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.bn1(self.conv1(x)))
        return torch.relu(self.bn2(self.conv2(y)) + self.shortcut(x))


class DemoNet(nn.Module):
    """f32[n, channels, h, w] → f32[n, classes]; three stages of 64, 128 and 256 channels, 1.2 million weights.

    Wide for its depth on purpose: a binary product pays where a 3x3 window has hundreds of inputs.
    """

    def __init__(self, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2)
        )
        self.stage1 = ResidualBlock(64, 64, 1)
        self.stage2 = ResidualBlock(64, 128, 2)
        self.stage3 = ResidualBlock(128, 256, 2)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, classes))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage3(self.stage2(self.stage1(self.stem(x)))))


def save_weights(model: nn.Module) -> None:
    """Write the shipped file: every tensor in f16, half the bytes and the same accuracy (the tests check it)."""
    arrays = {name: value.detach().cpu().numpy() for name, value in model.state_dict().items()}
    half = {name: value.astype(np.float16) if value.dtype == np.float32 else value for name, value in arrays.items()}
    np.savez_compressed(WEIGHTS, **half)


def load_demo_model() -> DemoNet:
    """The trained model for Fashion-MNIST, in eval mode (examples/train_demo_model.py made the weights)."""
    with np.load(WEIGHTS) as stored:
        arrays = {name: stored[name] for name in stored.files}
    model = DemoNet()
    # into float32 parameters; the one integer array counts the batches that batch norm has seen
    model.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in arrays.items()})
    return model.eval().to(memory_format=torch.channels_last)
