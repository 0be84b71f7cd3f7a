"""Sites: names, kinds, and a reason for each layer that stays float."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from abcfx.passes.match_layers import match_layers, qualified_name
from graphs import Net, dynamo, symbolic
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from abcfx.graph import text
from abcfx.plan import LayerSite


def sites(module: nn.Module, *inputs: torch.Tensor) -> list[LayerSite]:
    pipeline = dynamo(module, *inputs).pipeline()
    pipeline.canonicalize()
    return [found.site for found in pipeline.match()]


def test_names_kinds_and_shapes() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 4, 1, groups=2), nn.ConvTranspose2d(4, 2, 2)),
        nn.Flatten(), nn.Linear(98, 5),
    )  # fmt: skip
    assert sites(model, torch.randn(1, 3, 8, 8)) == [
        LayerSite("0", "conv2d", (8, 3, 3, 3)),
        LayerSite("2.0", "conv2d", (4, 4, 1, 1), groups=2),
        LayerSite("2.1", "conv_transpose2d", (4, 2, 2, 2)),
        LayerSite("4", "linear", (5, 98)),
    ]


def test_a_weight_used_twice_gives_two_sites() -> None:
    linear = nn.Linear(4, 4)
    assert [site.name for site in sites(nn.Sequential(linear, nn.ReLU(), linear), torch.randn(2, 4))] == ["0", "0#2"]


def test_get_attr_names_and_matrices() -> None:
    net = Net(lambda m, x: F.linear(x, m.w) @ m.v, w=(6, 4), v=(6, 3))
    pipeline = symbolic(net, torch.randn(2, 4)).pipeline()
    pipeline.canonicalize()
    assert [(s.site.name, s.site.weight) for s in pipeline.match()] == [("w", (6, 4)), ("v", (3, 6))]


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.project = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.attention(x, x, self.project(x))[0]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pair = nn.Bilinear(4, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pair(x, x)


@pytest.mark.parametrize(
    ("model", "shape", "name", "kind", "reason"),
    [
        (Attention(), (1, 5, 8), "attention", "multi_head_attention", "opaque"),
        (Pair(), (2, 4), "pair", "bilinear", "no binary form"),
        (nn.Sequential(weight_norm(nn.Linear(4, 3))), (2, 4), "0", "linear", "remove_parametrizations"),
        (Net(lambda m, x: F.linear(x, m.w * 2), w=(3, 4)), (2, 4), None, "linear", "computed in the graph (mul)"),
        (Net(lambda m, x: F.linear(x, m.w), w=(0, 4)), (2, 4), "w", "linear", "is empty"),
    ],
    ids=["attention", "bilinear", "weight_norm", "computed", "empty"],
)
@pytest.mark.filterwarnings("ignore:Initializing zero-element")
def test_reasons(model: nn.Module, shape: tuple, name: str | None, kind: str, reason: str) -> None:
    (site,) = [site for site in sites(model, torch.randn(shape)) if site.reason is not None]
    assert site.kind == kind
    assert reason in site.reason
    assert name is None or site.name == name


def test_integer_weights_stay() -> None:
    net = Net(lambda m, x: x @ m.codes)
    net.register_buffer("codes", torch.randint(0, 9, (4, 3)))
    pipeline = symbolic(net, torch.randint(0, 9, (2, 4))).pipeline()
    pipeline.canonicalize()
    (found,) = pipeline.match()
    assert found.site.reason == "its weight is torch.int64, not floating point"


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.outer = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(checkpoint(lambda y: torch.relu(self.inner(y)), x, use_reentrant=False))


def test_checkpoint_bodies_are_entered() -> None:
    assert [(s.name, s.reason) for s in sites(Checkpointed(), torch.randn(2, 4))] == [("inner", None), ("outer", None)]


def test_layers_in_other_bodies_have_a_reason() -> None:
    def branch(net: Net, x: torch.Tensor) -> torch.Tensor:
        return torch.cond(x.sum() > 0, lambda y: F.linear(y, net.w), lambda y: y + net.b, (x,))

    found = sites(Net(branch, w=(4, 4), b=(4,)), torch.randn(2, 4))
    assert [site.kind for site in found] == ["linear"]
    assert "cond" in found[0].reason


def test_matching_changes_nothing() -> None:
    pipeline = dynamo(Attention(), torch.randn(1, 5, 8)).pipeline()
    pipeline.canonicalize()
    before = text(pipeline.gm)
    match_layers(pipeline.gm)
    assert text(pipeline.gm) == before


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("L['self']._modules['layer1']._modules['0']._parameters['weight']", "layer1.0.weight"),
        ("L['self'].layers[3].weight", "layers.3.weight"),
        ("G['model']._buffers['k']", "k"),
    ],
)
def test_qualified_names(source: str, name: str) -> None:
    assert qualified_name(source) == name
