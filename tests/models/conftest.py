"""Real models from torchvision, timm and transformers, with random weights; tests skip by name where one is missing."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from types import ModuleType

import pytest
import torch
from torch._dynamo.utils import counters


@pytest.fixture(scope="session")
def optional() -> Callable[[str], ModuleType]:
    """Import a package, or skip by name."""
    # torchvision and timm fail to import beside a CPU build of torch unless these operators are declared first
    missing = [name for name in ("nms", "qnms") if not hasattr(torch.ops.torchvision, name)]
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in missing:
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

    def load(name: str) -> ModuleType:
        assert library is not None  # keeps the operators declared
        try:
            return importlib.import_module(name)
        except ImportError as error:
            pytest.skip(f"{name} is not installed ({error})")

    return load


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()
    counters.clear()
