"""timm's architectures: custom convolution classes, squeeze-excite, mixers."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from check import compile_and_compare, quantize_and_compare

# name, image size, quantized layers at least
MODELS = [
    ("resnet10t", 64, 8),
    ("vit_tiny_patch16_224", 64, 40),
    ("mobilenetv3_small_050", 64, 20),
    ("mixer_s32_224", 64, 30),
    ("convnext_atto", 64, 20),
]


@pytest.mark.parametrize(("name", "size", "at_least"), MODELS, ids=[m[0] for m in MODELS])
def test_timm(optional: Callable, name: str, size: int, at_least: int) -> None:
    arguments = {"img_size": size} if "vit" in name or "mixer" in name else {}
    model = optional("timm").create_model(name, pretrained=False, num_classes=10, **arguments)
    x = torch.randn(2, 3, size, size)
    q = quantize_and_compare(model, lambda m: m(x), at_least)
    compile_and_compare(q, lambda m: m(x))
