"""Weight fits of training steps start from the last; everything else computes from the live weight alone."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import abcfx
from abcfx.layers import ABCLayer
from abcfx.ops import warm_start, weight_cache
from abcfx.ops.weight_cache import WeightRecipe, dequantized, fitted, packed
from abcfx.quant.weights import dequantize_bases, fit_bases, flatten_weight

RECIPE = WeightRecipe(2, "alternating", per_channel=True)


class Fits:
    """Counts fits from scratch and alternations while it is open."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cold = self.warm = 0
        fit, refit = weight_cache.fit_bases, warm_start.refit_rows

        def count_cold(*args: object) -> tuple:
            self.cold += 1
            return fit(*args)

        def count_warm(*args: object) -> tuple:
            self.warm += 1
            return refit(*args)

        monkeypatch.setattr(weight_cache, "fit_bases", count_cold)
        monkeypatch.setattr(warm_start, "fit_bases", count_cold)
        monkeypatch.setattr(warm_start, "refit_rows", count_warm)

    def taken(self) -> tuple[int, int]:
        """(cold, warm) since the last call."""
        found = self.cold, self.warm
        self.cold = self.warm = 0
        return found


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    return Fits(monkeypatch)


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 9, 20), nn.ReLU(),
        nn.Linear(20, 4),
    )  # fmt: skip


def task(seed: int = 0, count: int = 32) -> tuple[Tensor, Tensor]:
    """Images of four classes that a few channels tell apart."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 4, (count,), generator=generator)
    x = torch.randn(count, 3, 8, 8, generator=generator)
    x[:, 0] += y.view(-1, 1, 1) - 1.5
    return x, y


def test_coded_weights_stay_coded_in_training() -> None:
    """Each step fits scales that double, near to those of a fit from scratch, and the state keeps them."""
    model = quantized(3, basis="coded")
    train(model, momentum(model, 0.1), range(5))
    copied = quantized(3, basis="coded")
    copied.load_state_dict(model.state_dict())
    for layer, twin in zip(model.modules(), copied.modules(), strict=True):
        if not isinstance(layer, ABCLayer):
            continue
        recipe = WeightRecipe(3, "coded", True, groups=getattr(layer, "groups", 1))
        (bases, scales, _), (again, same, _) = (fitted(each.weight, recipe) for each in (layer, twin))
        assert torch.equal(scales[1:], 2 * scales[:-1])
        assert torch.equal(bases, again)
        assert torch.equal(scales, same)
        flat = flatten_weight(layer.weight.detach()).flatten(1)
        fits = (bases, scales), fit_bases(flat, 3, "coded")
        warm, cold = ((flat - dequantize_bases(*fit)).square().sum() for fit in fits)
        assert warm <= 1.05 * cold


def quantized(m: int = 2, **training: object) -> nn.Module:
    model = abcfx.quantize_model(small_net(), M=m, N=2, **training)
    return abcfx.calibrate(model, [task()[0]]).train()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        optimizer.zero_grad()
        x, y = task(step)
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


def momentum(model: nn.Module, lr: float = 0.02) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


def evaluate(model: nn.Module) -> Tensor:
    with torch.no_grad():
        return model.eval()(task(99)[0])


LAYERS = 3  # quantized ones of small_net


@pytest.mark.parametrize("training", [{}, {"grad_bases": 4}, {"ste": "abc"}, {"basis": "coded"}], ids=str)
def test_a_step_fits_each_weight_once(fits: Fits, training: dict) -> None:
    """Forward and backward share the fit, and so do steps that accumulate gradients."""
    model = quantized(**training)
    optimizer = momentum(model)
    fits.taken()
    train(model, optimizer, range(1))
    assert fits.taken() == (LAYERS, 0)
    for _ in range(2):
        F.cross_entropy(model(task()[0]), task()[1]).backward()
    optimizer.step()
    assert fits.taken() == (0, LAYERS)
    train(model, optimizer, range(3))
    assert fits.taken() == (0, 3 * LAYERS)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
        lambda p: torch.optim.SGD(p, lr=0.01, foreach=True),
        lambda p: torch.optim.Adam(p, lr=1e-3, fused=True),
        lambda p: torch.optim.AdamW(p, lr=1e-3),
    ],
    ids=["sgd", "foreach", "fused", "adamw"],
)
def test_any_optimizer_goes_on_with_the_chain(fits: Fits, optimizer: Callable) -> None:
    model = quantized()
    fits.taken()
    train(model, optimizer(model.parameters()), range(4))
    assert fits.taken() == (LAYERS, 3 * LAYERS)
    for layer in model.modules():
        if isinstance(layer, abcfx.layers.ABCLayer):  # of the live weights, not of those before the last step
            recipe = RECIPE._replace(groups=getattr(layer, "groups", 1))
            bases, scales, _shape = fitted(layer.weight, recipe)
            flat = flatten_weight(layer.weight.detach(), groups=recipe.groups).flatten(1)
            residual = flat - dequantize_bases(bases, scales)
            inner = torch.einsum("pok,ok->po", bases.float(), residual)
            assert inner.abs().max() <= 1e-4  # least squares: orthogonal to every basis, up to f32 sums of 144 terms


@pytest.mark.parametrize("m", [2, 3])
def test_evaluation_depends_on_the_state_alone(m: int) -> None:
    """After training: as a copy, and as a model that never trained and only read the state."""
    torch.manual_seed(1)
    model = quantized(m)
    train(model, momentum(model), range(5))
    found = evaluate(model)
    assert torch.equal(found, evaluate(copy.deepcopy(model)))
    other = quantized(m)
    other.load_state_dict(model.state_dict())
    assert torch.equal(found, evaluate(other))
    with torch.inference_mode():
        assert torch.equal(found, model(task(99)[0]))


def test_evaluation_does_not_disturb_training(fits: Fits) -> None:
    torch.manual_seed(2)
    model = quantized(3)
    other = copy.deepcopy(model)
    train(model, momentum(model), range(4))
    optimizer = momentum(other)
    for step in range(4):
        evaluate(other)
        train(other.train(), optimizer, range(step, step + 1))
        evaluate(other)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_saved_bases_are_those_of_evaluation(tmp_path) -> None:
    model = quantized(3)
    train(model, momentum(model), range(5))
    want = evaluate(model.eval())
    with torch.enable_grad():
        model(task()[0])  # what gradients would flow through is kept, and warm
        abcfx.save_packed(model, tmp_path / "model.abc")
    loaded = abcfx.load_packed(tmp_path / "model.abc", quantized(3))
    assert torch.equal(evaluate(loaded), want)


def test_other_changes_are_fitted_from_scratch(fits: Fits) -> None:
    model = quantized()
    optimizer = momentum(model)
    train(model, optimizer, range(2))
    layers = [m for m in model.modules() if isinstance(m, abcfx.layers.ABCLayer)]
    fits.taken()

    state = {k: v for k, v in copy.deepcopy(model.state_dict()).items() if not k.endswith("weight_start")}
    model.load_state_dict(state)
    model(task()[0])
    assert fits.taken() == (LAYERS, 0)
    optimizer.step()
    model(task()[0])
    assert fits.taken() == (0, LAYERS)
    with torch.no_grad():
        layers[0].weight.mul_(2)
    optimizer.step()  # must not revive the chain that ended
    model(task()[0])
    assert fits.taken() == (1, LAYERS - 1)
    layers[0].weight.data.mul_(2)
    abcfx.invalidate(layers[0])
    model(task()[0])
    assert fits.taken() == (1, 0)
    copied = copy.deepcopy(model)  # goes on with the chains of the original
    copied(task()[0])
    assert fits.taken() == (1, LAYERS - 1)  # the layer fitted from scratch above has no start yet
    optimizer.step()
    model(task()[0])
    assert fits.taken() == (0, LAYERS)


def chain(weight: nn.Parameter, look: Callable[[], object], fits: Fits) -> None:
    """A cold look-up, then a warm one after a step, as if a layer owned the weight."""
    warm_start.follow(weight)
    optimizer = torch.optim.SGD([weight], lr=0.01)
    fits.taken()
    look()
    assert fits.taken() == (1, 0)
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    look()
    assert fits.taken() == (0, 1)


@pytest.mark.parametrize(
    ("shape", "recipe"),
    [
        ((6, 5, 3, 2), RECIPE),
        ((6, 5, 3, 2), RECIPE._replace(per_channel=False)),
        ((6, 5, 3), RECIPE._replace(groups=3, weight_bases=3)),
        ((8, 3, 3, 3), RECIPE._replace(transposed=True, groups=2)),
        ((8, 3, 3), RECIPE._replace(transposed=True)),
        ((7, 70), RECIPE),
        ((7, 70), RECIPE._replace(weight_bases=1)),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_layout(shape: tuple[int, ...], recipe: WeightRecipe, dtype: torch.dtype, fits: Fits) -> None:
    weight = nn.Parameter(torch.randn(shape).to(dtype))
    chain(weight, lambda: dequantized(weight, recipe), fits)
    found = dequantized(weight, recipe)
    assert (found.shape, found.dtype, found.is_contiguous()) == (weight.shape, dtype, True)
    with torch.no_grad():
        cold = dequantized(weight, recipe)
    errors = [(weight.detach().float() - w.float()).square().sum() for w in (found, cold)]
    assert errors[0] <= 1.15 * errors[1]  # as good as from scratch, up to local optima of some dozens of weights
    bits, scales, sums = packed(weight, recipe)
    rows = flatten_weight(found.float(), recipe.transposed, recipe.groups)
    limit = 2e-2 if dtype == torch.bfloat16 else 1e-5
    torch.testing.assert_close(sums, rows.sum(-1), rtol=limit, atol=limit * 10)
    bases, again, size = fitted(weight, recipe)
    assert torch.equal(scales, again)
    assert torch.equal(bits, torch.ops.abc_k.pack_weights(bases.view(-1, *size), recipe.groups, 8))


def test_views_are_their_own_chains(fits: Fits) -> None:
    """A square weight and its transpose, both used in one model, hang on the same parameter."""
    weight = nn.Parameter(torch.randn(16, 16))
    chain(weight, lambda: dequantized(weight.t(), RECIPE), fits)
    fits.taken()
    dequantized(weight, RECIPE)
    assert fits.taken() == (1, 0)
    assert len(warm_start._chains[weight]) == 2


def test_tied_weights_are_fitted_once(fits: Fits) -> None:
    model = nn.Sequential(*(nn.Linear(32, 32) for _ in range(4)))
    model[2].weight = model[1].weight
    model = abcfx.calibrate(abcfx.quantize_model(model, M=2, N=2), [torch.randn(8, 32)])
    optimizer = momentum(model)
    fits.taken()
    for wanted in ((1, 0), (0, 1), (0, 1)):
        optimizer.zero_grad()
        model(torch.randn(8, 32)).square().mean().backward()
        assert fits.taken() == wanted
        optimizer.step()
    assert len(abcfx.warm_starts(model)) == 1


@pytest.mark.parametrize("basis", ["greedy", "abc"])
def test_other_bases_have_no_chain(basis: str, fits: Fits) -> None:
    weight = nn.Parameter(torch.randn(6, 70))
    recipe = RECIPE._replace(basis=basis)
    found = dequantized(weight, recipe)
    with torch.no_grad():
        assert torch.equal(found, dequantized(weight, recipe))
    packed(weight, recipe)
    assert fits.taken() == (1, 0)  # what training keeps follows from the weight, so it serves evaluation too
    assert weight not in warm_start._chains


def test_inference_tensors_and_frozen_weights_have_no_chain() -> None:
    with torch.inference_mode():
        weight = torch.randn(6, 70)
        packed(weight, RECIPE)
    assert weight not in warm_start._chains
    frozen = nn.Parameter(torch.randn(6, 70), requires_grad=False)
    dequantized(frozen, RECIPE)
    assert frozen not in warm_start._chains


def test_rows_that_jump_are_fitted_from_scratch() -> None:
    """One step that replaces half of the rows, one of them by zeros, which then come back."""
    weight = nn.Parameter(torch.randn(8, 300))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    dequantized(weight, RECIPE._replace(weight_bases=3))
    goal = weight.detach().clone()
    goal[:4] = torch.randn(4, 300).exp() * 50
    goal[0] = 0
    for _ in range(2):
        weight.grad = weight.detach() - goal
        optimizer.step()
        bases, scales, _ = fitted(weight, RECIPE._replace(weight_bases=3))
        error = (weight.detach() - dequantize_bases(bases, scales)).square().sum(-1)
        cold = fit_bases(weight.detach(), 3)
        limit = (weight.detach() - dequantize_bases(*cold)).square().sum(-1)
        assert (error <= 2.1 * limit + 1e-12).all()
        goal[0] = torch.randn(300)


def test_what_is_not_finite_is_refused(fits: Fits) -> None:
    weight = nn.Parameter(torch.randn(4, 30))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    dequantized(weight, RECIPE)
    weight.grad = torch.zeros(4, 30)
    weight.grad[1, 2] = torch.nan
    optimizer.step()
    with pytest.raises(ValueError, match="weights must be finite: 1 NaN and 0 infinite among 120 values"):
        dequantized(weight, RECIPE)
