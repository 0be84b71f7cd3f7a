"""quantize_model: what is replaced, what is kept, and that the original is never touched."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from oracle import TOLERANCE, PerLayerError, dequantized_weight, layer_oracle, relative_error
from torch import Tensor, nn

import abcfx
from abcfx.layers import ABCConv2d, ABCLayer, ABCLinear


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 3, padding=1)
        self.body = nn.Sequential(nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1, stride=2), nn.ReLU())
        self.hidden = nn.Linear(64, 48)
        self.head = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(self.stem(x)).mean((2, 3))
        return self.head(F.relu(self.hidden(x)))


@pytest.fixture
def net() -> Net:
    return Net().eval()


@pytest.fixture
def images() -> Tensor:
    return torch.randn(4, 3, 16, 16)


def quantized(net: nn.Module, images: Tensor, **arguments: object) -> nn.Module:
    return abcfx.calibrate(abcfx.quantize_model(net, **arguments), [images])


def test_replaces_all_but_first_and_last(net: Net) -> None:
    q = abcfx.quantize_model(net, 3, 2)
    assert isinstance(q.body[2], ABCConv2d)
    assert isinstance(q.hidden, ABCLinear)
    assert type(q.stem) is nn.Conv2d
    assert type(q.head) is nn.Linear
    plan = abcfx.plan_of(q)
    assert plan.layers == {"body.2": abcfx.LayerPlan(3, 2), "hidden": abcfx.LayerPlan(3, 2)}
    assert set(plan.reasons) == {"stem", "head"}
    assert "first layer" in plan.reasons["stem"]
    assert "last layer" in plan.reasons["head"]


def test_original_is_untouched(net: Net, images: Tensor) -> None:
    before, state = net(images), copy.deepcopy(net.state_dict())
    q = quantized(net, images)
    optimizer = torch.optim.SGD(q.parameters(), lr=1.0)
    q(images).sum().backward()
    optimizer.step()
    assert torch.equal(net(images), before)
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())
    assert not any(isinstance(m, ABCLayer) for m in net.modules())


def test_every_layer_equals_the_float_op_on_dequantized_operands(net: Net, images: Tensor) -> None:
    q = quantized(net, images, M=2, N=3, first_last_float=False)
    compare = PerLayerError(q)
    q(images)
    assert len(compare.errors) == 4
    assert max(compare.errors.values()) <= TOLERANCE


def test_uncalibrated_model_refuses_to_run(net: Net, images: Tensor) -> None:
    q = abcfx.quantize_model(net)
    with pytest.raises(
        abcfx.NotCalibratedError, match=r"body\.2: activation levels are not fitted; call abcfx\.calibrate"
    ):
        q(images)


def test_state_dict_keeps_its_keys(net: Net, images: Tensor) -> None:
    q = quantized(net, images)
    added = set(q.state_dict()) - set(net.state_dict())
    assert set(net.state_dict()) <= set(q.state_dict())
    state = ("activation_scale", "activation_shift", "output_gain", "output_shift")
    assert added == {f"{layer}.{name}" for layer in ("body.2", "hidden") for name in state}
    other = abcfx.quantize_model(Net().eval())
    other.load_state_dict(q.state_dict())
    assert torch.equal(other(images), q(images))


def test_float_checkpoint_loads_and_is_seen_at_once(net: Net, images: Tensor) -> None:
    q = quantized(net, images)
    before = q(images)
    trained = Net()
    q.load_state_dict(trained.state_dict())
    compare = PerLayerError(q)
    after = q(images)
    assert not torch.equal(before, after)
    assert max(compare.errors.values()) <= TOLERANCE


@pytest.mark.parametrize("edit", ["in_place", "sgd", "fused_adam", "data_and_invalidate"])
def test_weights_are_never_stale(net: Net, images: Tensor, edit: str) -> None:
    q = quantized(net, images)
    q(images).square().sum().backward()
    if edit == "in_place":
        with torch.no_grad():
            q.hidden.weight.mul_(-2)
    elif edit == "data_and_invalidate":
        q.hidden.weight.data.mul_(-2)
        abcfx.invalidate(q)
    else:
        optimizer = (
            torch.optim.Adam(q.parameters(), fused=True)
            if edit == "fused_adam"
            else torch.optim.SGD(q.parameters(), 0.1)
        )
        optimizer.step()
    if edit in ("sgd", "fused_adam"):  # fitted from the scales of the last step: as close as a fit from scratch
        for layer in (module for module in q.modules() if isinstance(module, ABCLayer)):
            weight, plan = layer.weight, layer.plan
            got = torch.ops.abc.quantize_weight(weight, False, 1, plan.weight_bases, plan.basis, plan.per_channel)
            cold = relative_error(dequantized_weight(weight, plan, False, 1), weight)
            assert relative_error(got, weight) <= 1.1 * cold
        return
    compare = PerLayerError(q)
    q(images)
    assert max(compare.errors.values()) <= TOLERANCE


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch_save"])
def test_copies_and_files_compute_the_same(net: Net, images: Tensor, how: str) -> None:
    q = quantized(net, images)
    if how == "deepcopy":
        twin = copy.deepcopy(q)
    elif how == "pickle":
        twin = pickle.loads(pickle.dumps(q))
    else:
        file = io.BytesIO()
        torch.save(q, file)
        file.seek(0)
        twin = torch.load(file, weights_only=False)
    assert torch.equal(twin(images), q(images))
    assert abcfx.plan_of(twin) == abcfx.plan_of(q)
    with torch.no_grad():
        twin.hidden.weight.zero_()
    assert not torch.equal(twin(images), q(images))


def test_tied_weights_stay_tied_and_shared_modules_stay_shared(images: Tensor) -> None:
    shared = nn.Conv2d(16, 16, 3, padding=1)
    a, b = nn.Linear(16, 16), nn.Linear(16, 16)
    b.weight = a.weight
    net = nn.Sequential(
        nn.Conv2d(3, 16, 1), shared, nn.ReLU(), shared, nn.AdaptiveAvgPool2d(1), nn.Flatten(), a, b, nn.Linear(16, 2)
    )
    q = quantized(net, images)
    assert q[1] is q[3]
    assert isinstance(q[1], ABCConv2d)
    assert q[6].weight is q[7].weight
    compare = PerLayerError(q)
    q(images)
    assert set(compare.errors) == {"1", "6", "7"}
    assert max(compare.errors.values()) <= TOLERANCE


def test_a_single_layer_comes_back_as_a_new_object() -> None:
    layer = nn.Linear(64, 8)
    q = abcfx.calibrate(abcfx.quantize_model(layer), [torch.randn(32, 64)])
    assert isinstance(q, ABCLinear)
    assert type(layer) is nn.Linear
    x = torch.randn(5, 64)
    assert relative_error(q(x), layer_oracle(q, x)) <= TOLERANCE
    with pytest.raises(ValueError, match="itself one layer"):
        abcfx.quantize_(layer)


def test_quantize_in_place_keeps_the_parameters(net: Net) -> None:
    weight = net.hidden.weight
    abcfx.quantize_(net, abcfx.Config(M=1, N=1))
    assert isinstance(net.hidden, ABCLinear)
    assert net.hidden.weight is weight


def test_train_and_eval_modes_pass_through(net: Net) -> None:
    q = abcfx.quantize_model(net.train())
    assert q.training
    assert q.hidden.training
    assert not q.eval().hidden.training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_compute_in_them(images: Tensor, dtype: torch.dtype) -> None:
    net = nn.Sequential(nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 14 * 14, 8))
    q = quantized(net, images, first_last_float=False)
    want = q(images).double()
    q = q.to(dtype)
    got = q(images.to(dtype))
    assert got.dtype == dtype
    # one rounding of scale, weights and activations each to the mantissa of the dtype, before codes are cut
    assert relative_error(got, want) < 30 * torch.finfo(dtype).eps ** 0.5


def test_filter_include_exclude_and_overrides(net: Net) -> None:
    rules = {"hidden": {"M": 4, "basis": "greedy"}}
    assert abcfx.plan_of(abcfx.quantize_model(net, overrides=rules)).layers["hidden"] == abcfx.LayerPlan(4, 2, "greedy")
    assert set(abcfx.plan_of(abcfx.quantize_model(net, include="hidden")).layers) == {"hidden"}
    assert set(abcfx.plan_of(abcfx.quantize_model(net, include=["stem", "head"])).layers) == {"stem", "head"}
    plan = abcfx.plan_of(abcfx.quantize_model(net, exclude="body.*"))
    assert set(plan.layers) == {"hidden"}
    assert plan.reasons["body.2"] == "excluded by 'body.*'"
    plan = abcfx.plan_of(abcfx.quantize_model(net, filter_fn=lambda module, name: isinstance(module, nn.Conv2d)))
    assert set(plan.layers) == {"body.2"}
    assert plan.reasons["hidden"] == "filter_fn said no"


def test_backbone_in_a_transformer_encoder_is_not_bypassed() -> None:
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).eval()
    x = torch.randn(2, 5, 32)
    q = quantized(model, x, M=1, N=1, first_last_float=False)
    compare = PerLayerError(q)
    with torch.inference_mode():
        out = q(x)
        assert not torch.allclose(out, model(x), rtol=1e-3)
    assert set(compare.errors) == {f"layers.{i}.linear{j}" for i in range(2) for j in (1, 2)}
    assert "opaque" in abcfx.plan_of(q).reasons["layers.0.self_attn"]


def test_a_model_quantized_in_inference_mode_can_be_trained(net: Net, images: Tensor) -> None:
    with torch.inference_mode():
        q = quantized(net, images)
        assert not any(tensor.is_inference() for tensor in [*q.parameters(), *q.buffers()])
    q(images).sum().backward()
    assert all(parameter.grad is not None for parameter in q.parameters())
