"""Sensitivity: exact where the network behind a layer is linear, of the right sign and order where it is not."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import abcfx
from abcfx.plan import LayerPlan
from abcfx.planner.probes import directions, divergence, logits_of
from abcfx.planner.sensitivity import estimate, measure_exactly
from abcfx.planner.watch import Watched, fit_levels

PLANS = [LayerPlan(1, 1), LayerPlan(2, 2), LayerPlan(4, 4)]


def linear_behind() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 16, 3), nn.Flatten(), nn.Linear(16 * 16, 5))


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(2, 16, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(inplace=True),
        nn.Flatten(), nn.Linear(16 * 36, 32), nn.Tanh(), nn.Linear(32, 5),
    )  # fmt: skip


def measured(model: nn.Module, loss: str = "kl", probes: int = 5, samples: int = 48):
    """(estimate, exact) of every layer and plan, on random images."""
    images = list(torch.randn(samples, 2, 6, 6).split(16))
    watched = Watched(model, lambda m: abcfx.quantize_model(m, first_last_float=False), None)
    levels = fit_levels(watched.samplers(images), PLANS)

    def of(name: str, plan: LayerPlan):
        return levels[name, plan.activation_bases, plan.levels]

    found = estimate(watched, images, PLANS, of, loss, probes)
    return found.losses, measure_exactly(watched, images, found, of, loss)


def test_exact_where_the_rest_of_the_network_is_linear():
    """All classes are probed and the layers behind are affine: δz = J·δy holds, and nothing is left out."""
    guess, exact = measured(linear_behind())
    assert {name for name, _ in guess} == {"0", "2"}
    for key, value in exact.items():
        assert guess[key] == pytest.approx(value, rel=2e-3, abs=1e-7)


def test_random_directions_agree_on_average():
    guess, exact = measured(linear_behind(), "mse", probes=64)
    for key, value in exact.items():
        assert guess[key] == pytest.approx(value, rel=0.25)


def test_losses_are_positive_and_fall_with_more_bases():
    guess, exact = measured(net())
    for losses in (guess, exact):
        for name in ("0", "2", "5", "7"):
            one, two, four = (losses[name, plan] for plan in PLANS)
            assert one > two > four > 0


def test_the_estimate_ranks_as_the_exact_loss_does():
    guess, exact = measured(net())
    ranks = [torch.tensor([losses[key] for key in exact]).argsort().argsort().double() for losses in (guess, exact)]
    assert torch.corrcoef(torch.stack(ranks))[0, 1] > 0.9


def test_a_layer_that_the_output_does_not_hear_of_costs_nothing():
    """The weight error is as large as that of any layer; the loss is not."""
    model = net()
    with torch.no_grad():
        model[7].weight[:, :16] = 0
        model[5].weight[16:] = 0  # what remains audible is constant: layers 0 and 2 say nothing to the logits
    guess, exact = measured(model)
    for plan in PLANS:
        assert guess["2", plan] < 1e-9
        assert exact["2", plan] < 1e-9


def test_the_model_is_left_as_it_was():
    model = net().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    measured(model)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


def test_fisher_directions_have_the_covariance_of_the_curvature():
    z = torch.tensor([[2.0, 0.0, -1.0]])
    v = directions(z, "kl", 40_000, False, torch.Generator().manual_seed(0)).vectors[:, 0]
    p = z[0].softmax(0)
    torch.testing.assert_close(v.T @ v / len(v), p.diag() - p.outer(p), atol=0.01, rtol=0)


def test_class_directions_give_the_divergence_itself():
    z, dz = torch.randn(4, 5), torch.randn(4, 5)
    along = directions(z, "kl", 5, True, torch.Generator())
    change = torch.einsum("knc,nc->kn", along.vectors, dz)
    assert along.loss(change) == pytest.approx(divergence(z, z + dz, "kl"), rel=1e-5)
    likeliest = directions(z, "kl", 2, True, torch.Generator())
    assert likeliest.classes.shape == (4, 2)


def test_a_few_likeliest_classes_stand_for_all_of_a_sure_classifier():
    """Ten classes, the first one far ahead: five directions lose next to nothing, one says nothing at all."""
    z = torch.randn(64, 10) * 3 - torch.arange(10.0)
    dz = torch.randn(64, 10) * 0.5

    def loss(count: int | None) -> float:
        along = directions(z, "kl", count, True, torch.Generator())
        return along.loss(torch.einsum("knc,nc->kn", along.vectors, dz))

    assert loss(None) == loss(5)
    assert loss(None) == pytest.approx(divergence(z, z + dz, "kl"), rel=0.1)
    assert loss(1) == 0


def test_divergence_is_that_of_torch():
    z, other = torch.randn(4, 5), torch.randn(4, 5)
    expected = F.kl_div(other.log_softmax(1), z.softmax(1), reduction="sum")
    assert divergence(z, other, "kl") == pytest.approx(float(expected), rel=1e-4)
    assert divergence(z, other, "mse") == pytest.approx(float((z - other).square().sum() / 2), rel=1e-5)


def test_tokens_take_random_directions():
    """Logits at many places, and layers that see [n, t, c]: the estimate stays near the exact loss."""

    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.head = nn.Linear(16, 32), nn.Linear(32, 7)

        def forward(self, x):
            return {"logits": self.head(self.up(x))}

    tokens = list(torch.randn(64, 6, 16).split(32))
    watched = Watched(Tokens(), lambda m: abcfx.quantize_model(m, first_last_float=False), None)
    levels = fit_levels(watched.samplers(tokens), PLANS[1:])

    def of(name: str, plan: LayerPlan):
        return levels[name, plan.activation_bases, plan.levels]

    found = estimate(watched, tokens, PLANS[1:], of, probes=32)
    exact = measure_exactly(watched, tokens, found, of)
    for key, value in exact.items():
        assert found.losses[key] == pytest.approx(value, rel=0.35)


def test_outputs_without_logits():
    assert logits_of((torch.ones(2), None)).shape == (2,)
    with pytest.raises(TypeError, match="pass forward=lambda model, batch"):
        logits_of({"loss": torch.ones(1)})
