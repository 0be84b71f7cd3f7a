from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import abcfx


class Net(nn.Module):
    """Every kind of thing a backend meets: 3x3 convolutions, batch norm, a residual, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.norm = nn.BatchNorm2d(32)
        self.body = nn.Conv2d(32, 32, 3, padding=1)
        self.down = nn.Conv2d(32, 64, 3, stride=2, padding=1, bias=False)
        self.hidden = nn.Linear(64, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.body(x)).relu()
        x = self.down(x).relu().mean((2, 3))
        return self.head(self.hidden(x).relu())


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16)


@pytest.fixture
def quantized(net: Net, images: Tensor) -> nn.Module:
    return abcfx.calibrate(abcfx.quantize_model(net), [images])


@pytest.fixture(autouse=True)
def _on_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are tiny: the dense form would win. tests/backend/test_choice.py leaves the choice free."""
    monkeypatch.setenv("ABCFX_FORM", "xnor")


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()
