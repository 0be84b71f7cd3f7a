from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from small_net import Net
from torch import Tensor, nn

import abcfx


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
