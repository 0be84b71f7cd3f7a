from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import abcfx
from abcfx.explain import Explanation
from abcfx.ops.choose import forcing


class Net(nn.Module):
    """Layers on bits, a residual, one that is too narrow for a kernel, one that is used twice, a functional one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 64, 3, padding=1)
        self.norm = nn.BatchNorm2d(64)
        self.body = nn.Conv2d(64, 64, 3, padding=1)
        self.down = nn.Conv2d(64, 128, 3, stride=2, padding=1, bias=False)
        self.narrow = nn.Conv2d(128, 8, 1)
        self.hidden = nn.Linear(8, 48)
        self.shared = nn.Linear(48, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x)).relu()
        x = (x + self.body(x)).relu()
        x = self.narrow(self.down(x).relu()).mean((2, 3))
        return self.head(self.shared(self.shared(self.hidden(x).relu()).relu()))


@pytest.fixture(autouse=True)
def _on_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layers are tiny: the dense form would win."""
    monkeypatch.setenv("ABCFX_FORM", "xnor")


@pytest.fixture(scope="module", autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def quantized(net: nn.Module, images: Tensor) -> nn.Module:
    return abcfx.calibrate(abcfx.quantize_model(net, M=2, N=3), [images], progress=False)


@pytest.fixture(scope="module")
def explanation(quantized: nn.Module, images: Tensor) -> Explanation:
    with forcing("xnor"):
        return abcfx.explain(quantized, images, measure=False)
