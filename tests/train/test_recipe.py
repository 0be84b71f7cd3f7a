import math

import pytest
import torch
from tiny import quantized_net
from torch import nn

from abcfx.train.recipe import Recipe, make_optimizer, parameter_groups


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    recipe = Recipe(1, 0.4, warmup=0.2)
    rates = [recipe.rate(step, 50) for step in range(50)]
    assert rates[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert max(rates) == 0.4
    assert rates[10:] == pytest.approx([0.2 * (1 + math.cos(math.pi * i / 40)) for i in range(40)])
    assert 0 < rates[-1] < 0.001


def test_without_warmup_the_highest_rate_comes_first():
    assert Recipe(1, 0.4, warmup=0).rate(0, 10) == 0.4


def test_an_exponential_schedule_spends_as_long_at_each_power_of_ten():
    recipe = Recipe(1, 0.4, warmup=0.1, schedule="exponential")
    assert [recipe.rate(step, 100) for step in (0, 9, 10, 40, 70)] == pytest.approx([0.04, 0.4, 0.4, 0.04, 0.004])
    assert recipe.rate(99, 100) == pytest.approx(0.4e-3, rel=0.1)


@pytest.mark.parametrize(("epochs", "steps"), [(2, 6), (0.5, 2), (0.01, 1), (0, 0)])
def test_steps(epochs: float, steps: int):
    assert Recipe(epochs, 0.1, batch=30).steps(100) == steps


def test_a_batch_larger_than_the_data_is_one_step():
    assert Recipe(3, 0.1, batch=128).steps(100) == 3


def test_only_weights_decay_and_quantized_weights_and_levels_have_rates_of_their_own():
    model = quantized_net()
    groups = parameter_groups(model, Recipe(1, 0.1, weight_decay=0.3, weight_rate=6.0, level_rate=0.5))
    weights, floats, other, levels = groups
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert {names[id(p)] for p in floats["params"]} == {"conv1.weight", "linear.weight"}
    assert {names[id(p)] for p in weights["params"]} == {"conv2.weight"}
    assert {names[id(p)] for p in levels["params"]} == {"conv2.activation_scale", "conv2.activation_shift"}
    assert sum(len(group["params"]) for group in groups) == len(names)
    assert other["params"]
    assert [group["weight_decay"] for group in groups] == [0.3, 0.3, 0.0, 0.0]
    assert [group["factor"] for group in groups] == [6.0, 1.0, 1.0, 0.5]


def test_without_a_rate_of_their_own_weights_are_one_group_as_in_older_checkpoints():
    groups = parameter_groups(quantized_net(), Recipe(1, 0.1))
    assert len(groups) == 3
    assert len(groups[0]["params"]) == 3


def test_frozen_parameters_are_left_out():
    model = nn.Linear(3, 2).requires_grad_(False)
    model.bias.requires_grad_(True)
    groups = parameter_groups(model, Recipe(1, 0.1))
    assert [len(group["params"]) for group in groups] == [0, 1, 0]


@pytest.mark.parametrize(("name", "kind"), [("sgd", torch.optim.SGD), ("adamw", torch.optim.AdamW)])
def test_optimizers(name: str, kind: type):
    optimizer = make_optimizer(nn.Linear(3, 2), Recipe(1, 0.1, optimizer=name, momentum=0.8))
    assert type(optimizer) is kind
    if name == "sgd":
        assert all(group["nesterov"] and group["momentum"] == 0.8 for group in optimizer.param_groups)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("optimizer", "adam", "optimizer must be one of sgd, adamw, got 'adam'"),
        ("schedule", "linear", "schedule must be one of cosine, exponential, got 'linear'"),
        ("weight_rate", -1, "weight_rate must be at least 0, got -1"),
        ("augment", "mix", "augment must be one of crop, flip, none"),
        ("products", "f16", "products must be one of f32, bf16, got 'f16'"),
        ("batch", 0, "batch must be above 0, got 0"),
        ("learning_rate", float("nan"), "learning_rate must be above 0"),
        ("epochs", -1, "epochs must be at least 0, got -1"),
        ("distillation", 1.5, "distillation must be from 0 to 1, got 1.5"),
    ],
)
def test_values_out_of_range(field: str, value: object, message: str):
    with pytest.raises(ValueError, match=message):
        Recipe(**{"epochs": 1, "learning_rate": 0.1, field: value})
