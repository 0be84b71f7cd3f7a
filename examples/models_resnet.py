"""The body of torchvision's ResNet-18, between stem and classifier: f32[n, 64, 56, 56] → f32[n, 512, 7, 7].

    PYTHONPATH=examples python -m abcfx bench model models_resnet:resnet18_body --input 1,64,56,56 --all-layers
"""

from __future__ import annotations

from torch import nn

from abcfx.cli.models import load_model


def resnet18_body() -> nn.Module:
    model = load_model("torchvision.models:resnet18")
    return nn.Sequential(model.layer1, model.layer2, model.layer3, model.layer4)
