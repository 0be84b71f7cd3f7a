"""Networks for small images.

resnet20    He et al. 2016, section 4.2: 6n + 2 layers, shortcuts without parameters (option A). Parameter names are
            those of the widespread checkpoints of akamaster/pytorch_resnet_cifar10, which load as they are.
wrn_16_4    Zagoruyko, Komodakis 2016: 6n + 4 layers, k times as wide, batch norm and ReLU before each convolution
wrn_28_10
vgg_small   the six convolutions of the literature on low precision (Cai et al. 2017, Zhang et al. 2018)
small_cnn   three convolutions, for Fashion-MNIST
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


class PreActBlock(nn.Module):
    """y = conv(relu(bn(conv(a)))) + shortcut with a = relu(bn(x)); both convolutions 3x3.

    The shortcut is x itself, or where the shape changes a 1x1 convolution of a.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        changed = stride != 1 or inputs != outputs
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if changed else None

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.bn1(x))
        y = self.conv2(F.relu(self.bn2(self.conv1(a))))
        return y + (x if self.shortcut is None else self.shortcut(a))


class WideResNet(nn.Module):
    """f32[n, 3, 32, 32] → logits; three groups of (depth - 4) / 6 blocks with 16k, 32k and 64k channels."""

    def __init__(self, depth: int, width: int, classes: int = 10) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"the depth of a wide ResNet is 6n + 4, got {depth}")
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        blocks, inputs = [], 16
        for group in range(3):
            outputs = 16 * width * 2**group
            for block in range((depth - 4) // 6):
                blocks.append(PreActBlock(inputs, outputs, 2 if group and not block else 1))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(inputs)
        self.linear = nn.Linear(inputs, classes)
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn(self.blocks(self.conv1(x))))
        return self.linear(x.mean((2, 3)))


def wrn_16_4() -> WideResNet:
    return WideResNet(16, 4)


def wrn_28_10() -> WideResNet:
    return WideResNet(28, 10)


def vgg_small(classes: int = 10) -> nn.Sequential:
    """f32[n, 3, 32, 32] → logits: 128-128-M-256-256-M-512-512-M convolutions 3x3, then one linear layer."""
    layers: list[nn.Module] = []
    inputs = 3
    for outputs in (128, 256, 512):
        layers += [*_conv_norm(inputs, outputs), nn.ReLU()]
        layers += [*_conv_norm(outputs, outputs), nn.MaxPool2d(2), nn.ReLU()]
        inputs = outputs
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(512 * 4 * 4, classes))
    _initialize(model)
    return model


def small_cnn(channels: int = 1, classes: int = 10) -> nn.Sequential:
    """f32[n, channels, 28, 28] → logits: 32, 64 and 128 channels, each followed by pooling."""
    layers: list[nn.Module] = []
    inputs = channels
    for outputs in (32, 64, 128):
        layers += [*_conv_norm(inputs, outputs), nn.ReLU(), nn.MaxPool2d(2)]
        inputs = outputs
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 3 * 3, classes))
    _initialize(model)
    return model


def _conv_norm(inputs: int, outputs: int) -> tuple[nn.Module, nn.Module]:
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs)


def _initialize(model: nn.Module) -> None:
    """Normal weights of variance 2 / fan_out, as both papers take them (He et al. 2015)."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


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
