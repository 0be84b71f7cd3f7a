"""fit(): against brute force on a handful of samples, against known optima, and at the edges."""

import itertools

import pytest
import torch
from torch.nn import functional as F

from abcfx.quant.activations import coefficients, fit, planes, quantize

LEVELS = ("coded", "thermometer")


def error(x, bases, levels):
    """Mean squared error after the fit, relative to the mean square."""
    fitted = quantize(x, *fit(x, bases, levels), bases, levels).double()
    return float((x.double() - fitted).square().sum() / x.double().square().sum())


def best_coded(x, bases, anchored):
    """Least squared error over every assignment of codes that ascends with the samples, each with its own best line."""
    x = x.double().sort().values
    best = torch.tensor(torch.inf, dtype=torch.float64)
    for codes in itertools.combinations_with_replacement(range(2**bases), len(x)):
        k = torch.tensor(codes, dtype=torch.float64)
        design = k.unsqueeze(-1) if anchored else torch.stack([k, torch.ones_like(k)], -1)
        best = torch.minimum(best, (x - design @ (torch.linalg.pinv(design) @ x)).square().sum())
    return float(best)


@pytest.mark.parametrize("bases", [1, 2])
@pytest.mark.parametrize("anchored", [True, False])
def test_coded_fit_is_optimal_on_few_samples(bases, anchored):
    """Never better than brute force but for f32. Alternation may miss the best of six points: seldom, by little."""
    found, best = torch.zeros(40), torch.zeros(40)
    for trial in range(40):
        x = torch.randn(6).relu() if anchored else torch.randn(6)
        found[trial] = (x - quantize(x, *fit(x, bases, "coded"), bases, "coded")).square().sum()
        best[trial] = best_coded(x, bases, anchored)
    assert (found >= best - 1e-5).all()
    assert (found <= best + 1e-5).sum() >= 28
    assert found.sum() <= 1.2 * best.sum()


@pytest.mark.parametrize("bases", [1, 2, 3])
@pytest.mark.parametrize("kind", ["signed", "positive", "relu", "negative"])
def test_thermometer_fit_is_optimal_on_few_samples(bases, kind):
    """All thresholds between (or outside) the samples, scales by least squares on the planes they give."""
    for _ in range(6):
        x = torch.randn(7)
        x = {"signed": x, "positive": x.abs(), "relu": x.relu(), "negative": -x.abs()}[kind]
        ascending = x.double().sort().values
        best = torch.inf
        for cuts in itertools.combinations_with_replacement(range(len(x) + 1), bases):
            design = torch.stack([torch.where(torch.arange(len(x)) >= cut, 1.0, -1.0) for cut in cuts], -1).double()
            best = min(best, float((ascending - design @ (torch.linalg.pinv(design) @ ascending)).square().sum()))
        found = (x - quantize(x, *fit(x, bases, "thermometer"), bases, "thermometer")).square().sum()
        assert float(found) == pytest.approx(best, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize(
    ("bases", "optimum"),
    list(enumerate((0.3634, 0.1188, 0.03744, 0.01154, 0.003490, 0.001041), 1)),
)
def test_coded_fit_reaches_the_optimum_on_normal_samples(bases, optimum):
    """Best uniform quantizers of N(0,1): Max 1960, table II. Sampling deviates by 3/√200000 = 0.7 %; three of them."""
    assert error(torch.randn(200_000), bases, "coded") == pytest.approx(optimum, rel=0.02)


@pytest.mark.parametrize("bases", [1, 3, 5, 6, 7, 8])
@pytest.mark.parametrize("kind", ["normal", "relu"])
def test_no_step_of_a_fine_grid_is_better(bases, kind):
    """300 symmetric (or, after ReLU, anchored) quantizers with steps up to twice the fitted one, 0.7 % apart."""
    x = torch.randn(30_000).relu() if kind == "relu" else torch.randn(30_000)
    scale, shift = fit(x, bases, "coded")
    fitted = (x - quantize(x, scale, shift, bases, "coded")).double().square().sum()
    for factor in torch.linspace(0.01, 2, 300):
        step = factor * scale
        start = 0 * step if kind == "relu" else -step * (2**bases - 1) / 2
        tried = (x - quantize(x, step, start, bases, "coded")).double().square().sum()
        assert fitted <= tried * 1.001  # the last zoom moves in steps of 1 %, and the error is flat at its minimum


@pytest.mark.parametrize(("bases", "optimum"), [(1, 0.3634), (2, 0.1902), (3, 0.1175), (4, 0.07994), (7, 0.03454)])
def test_thermometer_fit_reaches_the_optimum_on_normal_samples(bases, optimum):
    """Best quantizers of N(0,1) with 2, 3, 4, 5 and 8 free levels: Max 1960, table I. They are symmetric, so the tie of
    the outer levels costs nothing. Tolerance as above."""
    assert error(torch.randn(200_000), bases, "thermometer") == pytest.approx(optimum, rel=0.02)


def distributions():
    x = torch.randn(20_000)
    return {
        "normal": x,
        "relu": x.relu(),
        "gelu": F.gelu(2 * x),
        "hardswish": F.hardswish(3 * x),
        "heavy": x / torch.rand(20_000).clamp(min=1e-3),
        "heavy positive": (3 * x).exp(),
        "far": x + 40,
        "negative": -x.abs() - 1,
        "tiny": x * 1e-20,
        "huge": x * 1e30,
        "sparse": x * (torch.rand(20_000) > 0.97),
        "bytes": torch.randint(0, 256, (20_000,)) / 255,
    }


@pytest.mark.parametrize("name", list(distributions()))
def test_coded_fit_beats_the_full_range(name):
    """At least as good as levels from the smallest to the largest sample, for every N, and better with every N."""
    x = distributions()[name]
    errors = [error(x, bases, "coded") for bases in range(1, 9)]
    low, high = (0.0 if x.min() >= 0 else float(x.min())), float(x.max())
    for bases, found in enumerate(errors, 1):
        full = torch.tensor([(high - low) / (2**bases - 1)]), torch.tensor([low])
        plain = (x - quantize(x, *full, bases, "coded")).double().square().sum() / x.double().square().sum()
        assert found <= float(plain) * (1 + 1e-5) + 1e-12  # f32 rounding of x̂: (6e-8)² of the power and more
    for fewer, more in itertools.pairwise(errors):
        assert more < fewer


@pytest.mark.parametrize("name", [name for name in distributions() if name not in ("tiny", "huge")])
def test_thermometer_fit_improves_with_every_plane(name):
    x = distributions()[name]
    errors = [error(x, bases, "thermometer") for bases in range(1, 9)]
    for fewer, more in itertools.pairwise(errors):
        assert more < fewer
    assert errors[0] <= 1


@pytest.mark.parametrize("bases", [1, 2, 3, 5])
@pytest.mark.parametrize("kind", ["relu", "negative", "far"])
def test_constant_planes_are_steps_up_next_to_the_samples(bases, kind):
    """One plane is the same for all samples. Its step goes up, and lies midway between the levels beside it, a tenth of
    its height off the samples at least; a threshold far outside would never learn anything."""
    x = 3 * torch.randn(20_000)
    x = {"relu": x.relu(), "negative": -x.abs() - 1, "far": x + 40}[kind]
    scale, shift = fit(x, bases, "thermometer")
    signs = planes(x, scale, shift, bases, "thermometer")
    (place,) = (signs == signs[:, :1]).all(1).nonzero().flatten().tolist()
    size, threshold = float(scale[place]), float(0.5 - shift[place])
    assert size > 0
    end, side = (float(x.max()), 1) if kind == "negative" else (float(x.min()), -1)
    beside = side * float(2 * scale[torch.arange(bases) != place].sum() - scale.sum())  # the level that samples have
    wanted = side * max(side * (beside + side * size), side * end + size / 10)
    assert threshold == pytest.approx(wanted, rel=1e-3)
    assert side * (threshold - end) > 0


def test_thermometer_resolution():
    """Thresholds are 0.5 - v in f32, so they are no finer than 2^-25: activations far below that are one level."""
    x = torch.randn(20_000)
    assert error(x * 1e-5, 3, "thermometer") == pytest.approx(error(x, 3, "thermometer"), rel=0.01)
    assert error(x * 1e6, 3, "thermometer") == pytest.approx(error(x, 3, "thermometer"), rel=0.01)


@pytest.mark.parametrize("bases", range(1, 9))
def test_zero_stays_exact_after_relu(bases):
    x = torch.randn(5000).relu()
    scale, shift = fit(x, bases, "coded")
    assert shift.item() == 0
    assert (quantize(x[x == 0], scale, shift, bases, "coded") == 0).all()


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bases", range(1, 9))
@pytest.mark.parametrize("value", [0.0, 2.5, -1e-3, 7e30])
def test_constant_samples_are_exact(levels, bases, value):
    for count in (1, 10):
        x = torch.full((count,), value)
        scale, shift = fit(x, bases, levels)
        torch.testing.assert_close(quantize(x, scale, shift, bases, levels), x, rtol=1e-6, atol=0)
        assert torch.isfinite(torch.cat([scale, shift])).all()
        if levels == "coded":
            assert scale > 0
            assert quantize(torch.zeros(1), scale, shift, bases, levels).abs() <= 1e-6 * abs(value)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bases", range(1, 9))
def test_two_values_are_exact(levels, bases):
    """One coded basis has two levels; thermometer levels need a second plane unless the values are opposite."""
    low = -3.0 if bases == 1 and levels == "thermometer" else 1.0 if levels == "thermometer" else 0.0
    x = torch.tensor([low, 3.0, 3.0, low])
    torch.testing.assert_close(quantize(x, *fit(x, bases, levels), bases, levels), x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS)
@pytest.mark.parametrize("bases", [1, 3, 8])
def test_the_fit_depends_on_the_samples_only(levels, bases):
    x = torch.randn(3000).relu()
    scale, shift = fit(x, bases, levels)
    assert (scale.dtype, shift.dtype) == (torch.float32, torch.float32)
    assert scale.shape == shift.shape == ((1,) if levels == "coded" else (bases,))
    for same in (x.clone(), x[torch.randperm(3000)], x.reshape(30, 10, 10).permute(2, 0, 1), x.double()):
        again = fit(same, bases, levels)
        torch.testing.assert_close(again[0], scale, rtol=1e-5, atol=0)  # prefix sums start from the smallest sample
        torch.testing.assert_close(again[1], shift, rtol=1e-5, atol=0)


@pytest.mark.parametrize("levels", LEVELS)
def test_scales_are_least_squares_for_their_planes(levels):
    """No other β (and Δ, o) would serve the same planes better: the residual is orthogonal to what they can move."""
    x = torch.randn(4000) + 0.3
    scale, shift = fit(x, 3, levels)
    residual = (x - quantize(x, scale, shift, 3, levels)).double()
    moves = planes(x, scale, shift, 3, levels).double()
    if levels == "coded":
        beta, _ = coefficients(scale, shift, 3, levels)
        moves = torch.stack([(beta.double().unsqueeze(-1) * moves).sum(0), torch.ones(4000).double()])
    assert ((moves @ residual) / 4000).abs().max() < 1e-4  # a few samples next to a threshold change cells in f32


@pytest.mark.parametrize("levels", LEVELS)
def test_bad_samples(levels):
    x = torch.ones(4)
    x[1], x[3] = torch.nan, -torch.inf
    with pytest.raises(ValueError, match="activations must be finite: 1 NaN and 1 infinite among 4 values"):
        fit(x, 2, levels)
    with pytest.raises(ValueError, match="no activations"):
        fit(torch.empty(0), 2, levels)
    with pytest.raises(ValueError, match="1 to 8, got 9"):
        fit(torch.ones(2), 9, levels)
