"""ResNets for CIFAR-10 as in He et al. 2016, section 4.2: 6n + 2 layers, shortcuts without parameters (option A).

Parameter names are those of the widespread checkpoints of akamaster/pytorch_resnet_cifar10, which load as they are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """y = relu(bn(conv(relu(bn(conv(x))))) + shortcut(x))

    The shortcut is the identity; where the block halves the image it takes every other pixel and adds zero channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.added = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x
        if self.stride > 1 or self.added:
            half = self.added // 2
            shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.added - half))
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(y)) + shortcut)


class ResNet(nn.Module):
    """f32[n, 3, 32, 32] → logits f32[n, classes]; three stages of `blocks` blocks with 16, 32 and 64 channels."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, blocks, 1)
        self.layer2 = self._stage(16, 32, blocks, 2)
        self.layer3 = self._stage(32, 64, blocks, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs: int, outputs: int, blocks: int, stride: int) -> nn.Sequential:
        rest = (BasicBlock(outputs, outputs, 1) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def resnet20() -> ResNet:
    return ResNet(blocks=3)


def load_checkpoint(model: nn.Module, path: str | Path) -> None:
    """Load a state_dict, alone or under "state_dict" in a checkpoint, with or without the prefix of DataParallel.

    Raises FileNotFoundError or ValueError with one sentence.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: give a file saved by torch.save that holds the model's state_dict"
        )
    stored = torch.load(path, map_location="cpu", weights_only=True)
    state = stored.get("state_dict", stored)
    try:
        model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    except RuntimeError as problem:
        raise ValueError(f"{path} does not fit this model: {problem}") from problem
