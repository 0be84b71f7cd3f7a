"""Every kind of layer equals the float op on dequantized operands, eager and compiled; or says why it stays float."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from oracle import TOLERANCE, PerLayerError, layer_oracle, relative_error
from torch import Tensor, nn

import abcfx
from abcfx.layers import ABCLayer
from abcfx.plan import BASES

# id, layer, shape of the input
LAYERS: list[tuple[str, nn.Module, tuple[int, ...]]] = [
    ("linear", nn.Linear(70, 9), (5, 70)),
    ("linear_vector", nn.Linear(64, 8), (64,)),
    ("linear_leading_dims", nn.Linear(33, 12, bias=False), (2, 3, 4, 33)),
    ("linear_few_inputs", nn.Linear(3, 12), (7, 3)),
    ("conv1d", nn.Conv1d(20, 9, 5, padding=2), (3, 20, 31)),
    ("conv1d_strided", nn.Conv1d(64, 9, 4, stride=3, padding=1, bias=False), (3, 64, 31)),
    ("conv1d_same_even", nn.Conv1d(32, 9, 4, padding="same"), (3, 32, 17)),
    ("conv2d", nn.Conv2d(64, 24, 3, padding=1), (2, 64, 9, 7)),
    ("conv2d_unbatched", nn.Conv2d(64, 24, 3), (64, 9, 7)),
    ("conv2d_valid", nn.Conv2d(40, 7, 3, padding="valid"), (2, 40, 9, 7)),
    ("conv2d_same", nn.Conv2d(40, 7, 3, padding="same", dilation=2), (2, 40, 9, 7)),
    ("conv2d_same_even", nn.Conv2d(40, 7, (4, 2), padding="same"), (2, 40, 9, 7)),
    ("conv2d_strided", nn.Conv2d(65, 8, (3, 5), stride=(2, 3), padding=(1, 2)), (2, 65, 14, 17)),
    ("conv2d_dilated", nn.Conv2d(32, 8, 3, padding=2, dilation=(2, 1)), (2, 32, 9, 9)),
    ("conv2d_wide_padding", nn.Conv2d(32, 8, 3, padding=4), (2, 32, 5, 5)),
    ("conv2d_pointwise", nn.Conv2d(128, 24, 1, stride=2), (2, 128, 9, 9)),
    ("conv2d_seven", nn.Conv2d(16, 8, 7, padding=3, stride=2), (1, 16, 23, 23)),
    ("conv2d_grouped", nn.Conv2d(96, 24, 3, padding=1, groups=3), (2, 96, 8, 8)),
    ("conv2d_depthwise", nn.Conv2d(32, 64, 3, padding=1, groups=32), (2, 32, 8, 8)),
    ("conv2d_few_channels", nn.Conv2d(3, 8, 3, padding=1), (2, 3, 8, 8)),
    *(
        (f"conv2d_{mode}", nn.Conv2d(32, 8, 3, padding=(1, 2), padding_mode=mode), (2, 32, 8, 8))
        for mode in ("reflect", "replicate", "circular")
    ),
    ("conv2d_circular_same", nn.Conv2d(32, 8, 4, padding="same", padding_mode="circular"), (2, 32, 8, 8)),
    ("conv3d", nn.Conv3d(16, 8, 3, padding=1, stride=2), (1, 16, 7, 8, 9)),
    ("conv_transpose1d", nn.ConvTranspose1d(16, 8, 4, stride=2, padding=1), (2, 16, 9)),
    ("conv_transpose2d", nn.ConvTranspose2d(16, 8, 3, stride=2, padding=1, output_padding=1), (2, 16, 6, 6)),
    ("conv_transpose2d_grouped", nn.ConvTranspose2d(16, 24, 3, groups=4, dilation=2), (2, 16, 6, 6)),
    ("conv_transpose3d", nn.ConvTranspose3d(16, 8, 2, stride=2), (1, 16, 3, 4, 5)),
]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    yield
    torch._dynamo.reset()


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # torch's own, of its float convolution
@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize(("layer", "shape"), [entry[1:] for entry in LAYERS], ids=[entry[0] for entry in LAYERS])
def test_layer(layer: nn.Module, shape: tuple[int, ...], levels: str) -> None:
    x = torch.randn(shape)
    q = abcfx.calibrate(abcfx.quantize_model(layer, 2, 3, levels=levels), [x])
    want = layer_oracle(q, x)
    assert want.shape == layer(x).shape
    with torch.no_grad():
        assert relative_error(q(x), want) <= TOLERANCE
        compiled = torch.compile(q, backend="abc", fullgraph=True, options={"then": "eager"})
        assert relative_error(compiled(x), want) <= TOLERANCE


@pytest.mark.parametrize("name", ["linear", "conv1d", "conv2d_strided", "conv3d", "conv_transpose2d_grouped"])
def test_gradients_are_those_of_the_float_op_on_dequantized_operands(name: str) -> None:
    """dŴ and db exactly; dx through the straight-through window (abcfx/quant/ste.py), tested on its own."""
    layer, shape = next(entry[1:] for entry in LAYERS if entry[0] == name)
    x = torch.randn(shape)
    q = abcfx.calibrate(abcfx.quantize_model(layer, 3, 3), [x], correct=False)
    q.zero_grad()
    out = q(x)
    grad = torch.randn_like(out)
    out.backward(grad)
    twin = type(layer).__new__(type(layer))
    twin.__dict__.update({k: v.copy() if isinstance(v, dict) else v for k, v in layer.__dict__.items()})
    transposed, groups = "transpose" in name, getattr(layer, "groups", 1)
    weight = torch.ops.abc.quantize_weight(layer.weight.detach(), transposed, groups, 3, "alternating", True)
    bias = layer.bias.detach().clone().requires_grad_()
    twin._parameters = {"weight": nn.Parameter(weight), "bias": bias}
    x_hat = torch.ops.abc.quantize_activation(x, q.activation_scale, q.activation_shift, 3, "coded").detach()
    twin(x_hat).backward(grad)
    assert relative_error(q.weight.grad, twin.weight.grad) <= TOLERANCE
    assert relative_error(q.bias.grad, bias.grad) <= TOLERANCE


@pytest.mark.parametrize(("M", "N"), [(1, 1), (1, 8), (8, 1), (5, 3), (4, 4), (6, 7), (8, 8)])
@pytest.mark.parametrize("basis", BASES)
def test_all_counts_of_bases(M: int, N: int, basis: str) -> None:
    x = torch.randn(2, 64, 6, 6)
    q = abcfx.calibrate(abcfx.quantize_model(nn.Conv2d(64, 16, 3, padding=1), M, N, basis=basis), [x])
    with torch.no_grad():
        assert relative_error(q(x), layer_oracle(q, x)) <= TOLERANCE


class Functional(nn.Module):
    """A forward of functions on its own Parameters, with dropout, a branch on an argument and a dictionary result."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(32, 32, 3, 3) / 17)
        self.matrix, self.bias = nn.Parameter(torch.randn(32, 48) / 6), nn.Parameter(torch.randn(48))
        self.out = nn.Linear(48, 4)

    def forward(self, x: Tensor, scale: float | None = None) -> dict[str, Tensor]:
        x = F.conv2d(x, self.kernel, padding=1).relu().mean((2, 3))
        x = F.dropout(x, 0.5, self.training)
        x = torch.addmm(self.bias, x, self.matrix)
        if scale is not None:
            x = x * scale
        return {"hidden": x, "out": self.out(x.relu())}


def test_functional_layers_are_quantized_in_place() -> None:
    model, x = Functional().eval(), torch.randn(4, 32, 8, 8)
    q = abcfx.calibrate(abcfx.quantize_model(model, 2, 2, first_last_float=False), [x])
    assert set(abcfx.plan_of(q).layers) == {"kernel", "matrix", "out"}
    assert isinstance(q, Functional)
    assert set(model.state_dict()) <= set(q.state_dict())
    compare = PerLayerError(q)
    with torch.no_grad():
        out = q(x)
        assert set(out) == {"hidden", "out"}
        scaled = q(x, scale=2.0)
    assert torch.allclose(scaled["hidden"], 2 * out["hidden"])
    assert set(compare.errors) == {"kernel", "matrix", "out"}
    assert max(compare.errors.values()) <= TOLERANCE
    assert not torch.equal(q.train()(x)["hidden"], out["hidden"])  # dropout is alive in training


class DataDependent(nn.Module):
    """Control flow on values, keyword arguments, a layer used twice: symbolic_trace fails on it as a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.block, self.last = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 2)
        self.loose = nn.Parameter(torch.randn(32, 32))

    def forward(self, *, tokens: Tensor, **_: object) -> Tensor:
        x = self.first(tokens)
        if x.sum() > 0:
            x = x @ self.loose
        for _step in range(int(x.shape[0] > 2) + 1):
            x = self.block(x).relu()
        return self.last(x)


def test_untraceable_forwards_are_quantized_by_their_parts_with_a_reason_for_the_rest() -> None:
    model = DataDependent().eval()
    with pytest.raises(Exception, match="control flow"):
        torch.fx.symbolic_trace(model)
    q = abcfx.quantize_model(model)
    plan = abcfx.plan_of(q)
    assert set(plan.layers) == {"block"}
    assert any("cannot be traced" in reason and "nn.Linear" in reason for reason in plan.reasons.values())
    batches = [{"tokens": torch.randn(4, 32), "unused": 1} for _ in range(2)]
    abcfx.calibrate(q, batches)
    compare = PerLayerError(q)
    with torch.no_grad():
        q(**batches[0])
    assert compare.errors["block"] <= TOLERANCE


class ScaledConv(nn.Conv2d):
    """A subclass with a forward of its own: replacing it by class would lose what it does."""

    def forward(self, x: Tensor) -> Tensor:
        return 3 * F.conv2d(x, self.weight, self.bias)


def test_subclasses_with_their_own_forward_keep_it() -> None:
    model = nn.Sequential(nn.Conv2d(16, 16, 1), ScaledConv(16, 8, 3)).eval()
    x = torch.randn(2, 16, 6, 6)
    q = abcfx.calibrate(abcfx.quantize_model(model, 8, 8, first_last_float=False), [x])
    assert set(abcfx.plan_of(q).layers) == {"0", "1"}
    with torch.no_grad():
        assert relative_error(q(x), model(x)) < 0.05  # (8, 8) is close to float: the factor 3 is there


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)), "computed by a parametrization"),
        (nn.utils.parametrizations.spectral_norm(nn.Conv2d(8, 8, 3)), "computed by a parametrization"),
        (nn.Bilinear(8, 8, 8), "no binary form"),
        (nn.LSTM(8, 8), "recurrent layers"),
        (nn.MultiheadAttention(8, 2), "opaque"),
    ],
    ids=["weight_norm", "spectral_norm", "bilinear", "lstm", "attention"],
)
def test_layers_that_stay_float_say_why(model: nn.Module, reason: str) -> None:
    whole = nn.ModuleList([nn.Linear(8, 8), model])
    plan = abcfx.plan_of(abcfx.quantize_model(whole, first_last_float=False))
    assert set(plan.layers) == {"0"}
    assert any(reason in text for name, text in plan.reasons.items() if name.startswith("1"))
    assert not any(isinstance(m, ABCLayer) for m in model.modules())
