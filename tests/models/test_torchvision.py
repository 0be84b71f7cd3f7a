"""torchvision's architectures: convolutions plain, grouped, depthwise and strided; in a ViT, opaque attention."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from types import ModuleType

import pytest
import torch
from check import compile_and_compare, quantize_and_compare

import abcfx

# name, image size, quantized layers at least, arguments of the constructor
MODELS = [
    ("resnet18", 64, 19, {}),
    ("mobilenet_v2", 64, 50, {}),
    ("mobilenet_v3_small", 64, 50, {}),
    ("efficientnet_b0", 64, 78, {}),
    ("squeezenet1_1", 64, 24, {}),
    ("vgg11", 32, 7, {"init_weights": False}),
    ("shufflenet_v2_x0_5", 64, 54, {}),
]


@pytest.mark.parametrize(("name", "size", "at_least", "arguments"), MODELS, ids=[m[0] for m in MODELS])
def test_torchvision(
    optional: Callable[[str], ModuleType], name: str, size: int, at_least: int, arguments: dict
) -> None:
    model = getattr(optional("torchvision.models"), name)(weights=None, **arguments)
    x = torch.randn(2, 3, size, size)
    exclude = ("classifier.0", "classifier.3") if name == "vgg11" else ()  # a hundred million weights to fit
    q = quantize_and_compare(model, lambda m: m(x), at_least, exclude=exclude)
    compile_and_compare(q, lambda m: m(x))


def test_resnet18_through_inductor(optional: Callable[[str], ModuleType]) -> None:
    model = optional("torchvision.models").resnet18(weights=None)
    x = torch.randn(2, 3, 64, 64).to(memory_format=torch.channels_last)
    q = quantize_and_compare(model, lambda m: m(x), 19)
    compile_and_compare(q, lambda m: m(x), then="inductor")


def test_vision_transformer(optional: Callable[[str], ModuleType]) -> None:
    vit = optional("torchvision.models").VisionTransformer(32, 8, 2, 4, 64, 128)
    x = torch.randn(2, 3, 32, 32)
    q = quantize_and_compare(vit, lambda m: m(x), 4)
    reasons = abcfx.plan_of(q).reasons
    assert "opaque" in reasons["encoder.layers.encoder_layer_0.self_attention"]
    compile_and_compare(q, lambda m: m(x))


def test_the_command_line_loads_torchvision_models(optional: Callable[[str], ModuleType]) -> None:
    optional("torchvision")
    program = "from abcfx.cli.models import load_model; print(type(load_model('torchvision.models:resnet18')).__name__)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.stdout.strip() == "ResNet", run.stderr
