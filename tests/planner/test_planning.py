"""abcfx.plan and quantize_model(budget=...) from a model to a calibrated one."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import abcfx
from abcfx.ops import library
from abcfx.plan import LayerPlan, Plan

CANDIDATES = [LayerPlan(1, 1), LayerPlan(2, 2), LayerPlan(4, 4), LayerPlan(2, 3, levels="thermometer")]
compiled = pytest.mark.skipif(not library.loaded(), reason="the compiled kernels are not loaded")


class Mix(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(64, 64) / 8)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.matrix)


class Net(nn.Module):
    """A convolution between two that stay float, a functional layer and a depthwise one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 64, 3, padding=1)
        self.body = nn.Conv2d(64, 64, 3, padding=1)
        self.depthwise = nn.Conv2d(64, 64, 3, padding=1, groups=64)
        self.mix = Mix()
        self.head = nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.body(torch.relu(self.stem(x))))
        x = torch.relu(self.depthwise(x)).mean((2, 3))
        return self.head(self.mix(x))


@cache
def trained() -> Net:
    """Told to separate four kinds of noise, so that it has an accuracy to lose."""
    torch.manual_seed(0)
    model = Net()
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(40):
        x, y = batch(64)
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def batch(count: int) -> tuple[Tensor, Tensor]:
    """Class c has a step of its own in one of four places."""
    y = torch.randint(4, (count,))
    x = torch.randn(count, 2, 8, 8) / 2
    for i, c in enumerate(y.tolist()):
        x[i, c % 2, 4 * (c // 2) :] += 1
    return x, y


@cache
def batches() -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(1)
    return [batch(32) for _ in range(4)]


@cache
def planned() -> abcfx.BudgetPlan:
    return abcfx.plan(trained(), batches(), {"bits": 8}, candidates=CANDIDATES, samples=64, progress=False)


def test_every_layer_has_its_options():
    layers = {layer.name: layer for layer in planned().measured.layers}
    assert set(layers) == {"stem", "body", "depthwise", "mix.matrix", "head"}
    labels = ["float", "1x1", "2x2", "4x4", "2x3 thermometer"]
    assert [option.label for option in layers["body"].options] == labels
    assert [option.label for option in layers["stem"].options] == ["float"]
    assert "the first layer stays float" in layers["stem"].reason
    assert layers["body"].weights == 64 * 64 * 9
    assert planned().bits <= 8
    assert planned().measured.setup["samples"] == 64


def test_losses_have_the_right_sign_and_order():
    for layer in planned().measured.free:
        losses = {option.label: option.loss for option in layer.options}
        assert losses["float"] == 0
        assert losses["1x1"] > losses["2x2"] > losses["4x4"] > 0


@compiled
def test_times_are_those_of_the_cost_model():
    layers = {layer.name: layer for layer in planned().measured.layers}
    body = {option.label: option.ms for option in layers["body"].options}
    assert body["1x1"] < body["4x4"]
    # no binary kernel: the float op on dequantized operands, which can only take longer
    depthwise = {option.label: option.ms for option in layers["depthwise"].options}
    assert depthwise["1x1"] == depthwise["4x4"] > depthwise["float"]
    assert planned().measured.float_ms > sum(layer.options[0].ms for layer in planned().measured.layers)


def test_the_same_plan_every_time():
    again = abcfx.plan(trained(), batches(), {"bits": 8}, candidates=CANDIDATES, samples=64, progress=False)
    assert again.to_json() == planned().to_json()


def test_the_plan_is_what_the_model_becomes():
    plan = planned().solve({"bits": 2})
    quantized = abcfx.quantize_model(trained(), plan=plan)
    assert abcfx.plan_of(quantized).layers == plan.plan.layers
    assert quantized.body.plan == plan.plan.layers["body"]
    assert isinstance(quantized.stem, nn.Conv2d)
    assert abcfx.plan_of(quantized).reasons["stem"] == plan.plan.reasons["stem"]
    abcfx.calibrate(quantized, batches(), progress=False)
    assert quantized(batches()[0][0]).shape == (32, 4)


def test_the_same_plan_as_rules_by_name():
    plan = planned().solve({"bits": 2})
    by_rules = abcfx.quantize_model(trained(), config=plan.config(grad_bases=4))
    layers = abcfx.plan_of(by_rules).layers
    assert {name: (p.weight_bases, p.activation_bases, p.levels) for name, p in layers.items()} == {
        name: (p.weight_bases, p.activation_bases, p.levels) for name, p in plan.plan.layers.items()
    }
    assert {p.grad_bases for p in layers.values()} == {4}


@compiled
@pytest.mark.parametrize("budget", [{"speedup": 1.1}, {"bits": 2.5}, {"latency_ms": 1.0}, {"accuracy_drop": 3.0}])
def test_quantize_model_within_a_budget(budget: dict, monkeypatch: pytest.MonkeyPatch):
    import abcfx.planner.planning as planning

    monkeypatch.setattr(planning, "COUNTS", (1, 3))
    made = abcfx.quantize_model(trained(), budget=budget, loader=batches(), grad_bases=2)
    plan = abcfx.plan_of(made)
    assert all(layer.grad_bases == 2 for layer in plan.layers.values())
    right = sum(int((made(x).argmax(1) == y).sum()) for x, y in batches())  # it is calibrated: else it would refuse
    if "accuracy_drop" in budget:
        exact = sum(int((trained()(x).argmax(1) == y).sum()) for x, y in batches())
        assert right >= exact - 128 * 0.08


def test_accuracy_drop_is_measured_on_data_that_nothing_was_fitted_to():
    fitted = set()

    def forward(model: nn.Module, data: tuple[Tensor, Tensor]) -> Tensor:
        if any(getattr(module, "observer", None) for module in model.modules()):
            fitted.add(id(data))
        return model(data[0])

    plan = abcfx.plan(trained(), batches(), {"accuracy_drop": 2}, measured=planned(), forward=forward, progress=False)
    assert plan.accuracy["against"] == "labels"
    assert plan.accuracy["images"] == 64  # the second half of 128
    assert fitted == {id(data) for data in batches()[:2]}
    assert plan.accuracy["drop"] <= 2
    assert plan.accuracy["float"] - plan.accuracy["planned"] == pytest.approx(plan.accuracy["drop"])
    tried = plan.accuracy["tried"]
    assert plan.ms == min(row["ms"] for row in tried if row["drop"] <= 2)
    assert abcfx.BudgetPlan.from_json(plan.to_json()) == plan
    strict = abcfx.plan(trained(), batches(), {"accuracy_drop": 0}, measured=planned(), progress=False)
    assert strict.ms >= plan.ms


def test_without_labels_the_float_model_is_the_judge():
    images = [x for x, _ in batches()]
    plan = abcfx.plan(trained(), images, {"accuracy_drop": 5}, measured=planned(), held_out=images[:1], progress=False)
    assert plan.accuracy["against"] == "answers of the float model"
    assert (plan.accuracy["float"], plan.accuracy["images"]) == (100.0, 32)


def test_accuracy_that_the_other_limits_forbid():
    one = [LayerPlan(1, 1)]
    worst = abcfx.plan(trained(), batches(), {"bits": 1}, candidates=one, samples=32, progress=False)
    broken = [(x, (trained()(x).argmax(1))) for x, _ in batches()]
    quantized = abcfx.calibrate(abcfx.quantize_model(trained(), plan=worst), broken, progress=False)
    assert any((quantized(x).argmax(1) != y).any() for x, y in broken)
    with pytest.raises(abcfx.InfeasibleBudget, match="accuracy_drop=0 cannot be kept together with the other limits"):
        abcfx.plan(trained(), broken, {"accuracy_drop": 0, "bits": 1}, measured=worst, held_out=broken, progress=False)


def test_exact_sensitivity_is_near_the_estimate():
    exact = abcfx.plan(
        trained(), batches(), {"bits": 8}, candidates=CANDIDATES[1:3], samples=64, sensitivity="exact", progress=False
    )
    for layer, guess in zip(exact.measured.free, planned().measured.free, strict=True):
        for text in ("2x2", "4x4"):
            found, guessed = layer.option(text).loss, guess.option(text).loss
            assert found != guessed
            assert 1 / 3 < (found + 1e-5) / (guessed + 1e-5) < 3


def test_fixed_layers_are_kept_through_solving_again():
    plan = abcfx.plan(
        trained(), batches(), {"bits": 32}, measured=planned(), fixed={"body": "2x2"}, progress=False
    )  # fmt: skip
    assert plan.choices["body"] == "2x2"
    assert plan.solve({"bits": 30}).choices["body"] == "2x2"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loader": []}, "the loader gave no batch"),
        ({"candidates": []}, "candidates is empty"),
        ({"sensitivity": "hessian"}, "sensitivity must be one of estimate, margins, exact, got 'hessian'"),
        ({"cost": "guessed"}, "cost must be one of predicted, measured"),
        ({"samples": 0}, "samples must be an integer from 1 on, got 0"),
        ({"budget": {"accuracy_drop": 1}, "loader": [torch.zeros(2, 2, 8, 8)]}, "give held_out="),
        ({"fixed": {"bdy": "1x1"}}, r"no layer \['bdy'\] to fix; the layers are stem"),
        ({"fixed": {"body": "7x7"}}, "body has no option '7x7'; it has float, 1x1"),
        ({"exclude": "bodi"}, "exclude rule 'bodi' matches no layer"),
    ],
)  # fmt: skip
def test_errors_say_what_to_do(settings: dict, message: str):
    given = {"loader": batches()[:1], "budget": {"bits": 8}, "candidates": CANDIDATES[:1], "samples": 8} | settings
    with pytest.raises(ValueError, match=message):
        abcfx.plan(trained(), given.pop("loader"), given.pop("budget"), progress=False, **given)


def test_quantize_model_takes_no_half_budget():
    with pytest.raises(ValueError, match="budget needs loader=batches"):
        abcfx.quantize_model(trained(), budget={"bits": 2})


def test_a_plan_of_another_model_is_refused():
    with pytest.raises(ValueError, match="the plan has a layer 'nope' that the model has not"):
        abcfx.quantize_model(trained(), plan=Plan({"nope": LayerPlan()}))
    parametrized = Net()
    nn.utils.parametrizations.weight_norm(parametrized.body)
    with pytest.raises(ValueError, match="the plan quantizes 'body', which cannot be"):
        abcfx.quantize_model(parametrized, plan=Plan({"body": LayerPlan()}))


def test_a_plan_of_floats_is_a_copy():
    made = abcfx.quantize_model(trained(), plan=Plan({}, {"body": "because"}))
    assert made is not trained()
    assert torch.equal(made(batches()[0][0]), trained()(batches()[0][0]))
    assert abcfx.plan_of(made).reasons["body"] == "because"


@compiled
def test_measured_times_are_kept_and_taken_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from abcfx import autotune

    monkeypatch.setenv("ABCFX_CACHE", str(tmp_path))
    few = {"candidates": [LayerPlan(1, 1)], "samples": 8, "include": "body", "cost": "measured", "progress": False}
    first = abcfx.plan(trained(), batches()[:1], {"bits": 32}, **few)
    assert first.measured.setup["cost"] == "measured"
    # every answer is in the store, the float op beside the forms; a second plan reads them
    forms = [set(entry["ms"]) for entry in autotune.store().entries().values()]
    assert any({"float", "dense", "xnor"} <= found for found in forms)
    monkeypatch.setattr(autotune, "race", lambda functions: pytest.fail("measured again"))
    assert abcfx.plan(trained(), batches()[:1], {"bits": 32}, **few).measured == first.measured
