"""w ≈ Σ_p α_p B_p: against brute force, against known errors, and at the edges."""

import itertools

import pytest
import torch

from abcfx.quant.alternating import solve_scales, solve_without_waiting
from abcfx.quant.weights import dequantize_bases, fit_bases, fit_scales, relative_error

KINDS = ("alternating", "coded", "greedy", "abc")


def error_of(w, weight_bases, basis, per_channel=True):
    return (w - dequantize_bases(*fit_bases(w, weight_bases, basis, per_channel))).square().sum(-1)


def best_error(w, weight_bases):
    """Least squared error over all bases and all scales, for one row: every pair of sign vectors, scales by lstsq."""
    signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(w) - 1)), dtype=torch.float64)
    signs = torch.cat([torch.ones(len(signs), 1), signs], 1)  # a basis and its negative span the same
    errors = []
    for chosen in itertools.combinations(range(len(signs)), weight_bases):
        planes = signs[list(chosen)].T
        errors.append((w.double() - planes @ torch.linalg.pinv(planes) @ w.double()).square().sum())
    return torch.stack(errors).min()


@pytest.mark.parametrize("basis", ["alternating", "greedy"])
def test_one_basis_is_optimal(basis):
    w = torch.randn(30, 7)
    best = torch.stack([best_error(row, 1) for row in w])
    torch.testing.assert_close(error_of(w, 1, basis).double(), best, rtol=1e-5, atol=1e-6)  # f32 weights, 7 of them


def test_two_bases_are_mostly_optimal():
    """Alternation finds a local optimum. It may never beat brute force, and here it should mostly equal it."""
    w = torch.randn(40, 6)
    best = torch.stack([best_error(row, 2) for row in w])
    found = error_of(w, 2, "alternating").double()
    assert (found >= best - 1e-6).all()
    assert (found <= best + 1e-5 * w.square().sum(-1)).double().mean() >= 0.7
    assert found.sum() <= 1.2 * best.sum()


@pytest.mark.parametrize("basis", [kind for kind in KINDS if kind != "coded"])
@pytest.mark.parametrize("weight_bases", [1, 2, 3, 4, 8])
def test_scales_are_least_squares(basis, weight_bases):
    """The residual is orthogonal to every basis: ⟨w - ŵ, B_p⟩ = 0 up to f32 sums of 300 terms of size 1."""
    w = torch.randn(5, 300)
    bases, scales = fit_bases(w, weight_bases, basis)
    inner = torch.einsum("pok,ok->po", bases.double(), w.double() - dequantize_bases(bases, scales).double())
    assert inner.abs().max() < 300 * 1e-6


@pytest.mark.parametrize("weight_bases", [1, 2, 3])  # more stop after a fixed number of steps
def test_alternating_stops_where_no_code_would_change(weight_bases):
    w = torch.randn(4, 500)
    bases, scales = fit_bases(w, weight_bases, "alternating")
    codes = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=weight_bases)))
    nearest = (w.unsqueeze(-1) - (codes @ scales).T.unsqueeze(1)).abs().amin(-1)
    found = (w - dequantize_bases(bases, scales)).abs()
    assert (found - nearest).max() < 1e-5  # ties and f32 sums of up to 8 scales below 4


@pytest.mark.parametrize("basis", ["alternating", "greedy"])
@pytest.mark.parametrize("name", ["normal", "heavy", "sparse", "positive", "two values", "few"])
def test_one_more_basis_never_hurts(basis, name):
    w = torch.randn(12, 257)
    w = {
        "normal": w,
        "heavy": w / torch.rand(12, 257),
        "sparse": w * (torch.rand(12, 257) > 0.9),
        "positive": w.abs() + 0.5,
        "two values": torch.where(w > 0.3, 2.0, -0.5),
        "few": w[:, :3],
    }[name]
    errors = [error_of(w, count, basis) for count in range(1, 9)]
    power = w.square().sum(-1)
    for fewer, more in itertools.pairwise(errors):
        assert (more <= fewer + 1e-6 * power).all()  # f32 rounding of ŵ


# documented errors on N(0,1) for M = 2 … 5, and those of the best 2^M free levels (Max 1960, table I)
ABC_TABLE = (0.262, 0.118, 0.088, 0.077)
ALTERNATING_TABLE = (0.1175, 0.0370, 0.0114, 0.0035)
MAX_TABLE = (0.1188, 0.03744, 0.01154, 0.003495)  # uniform levels, Max 1960, table II
FREE_LEVELS = (0.1175, 0.03454, 0.009497, 0.002499)


def normal_errors(basis):
    w = torch.randn(256, 4608)
    return [float(relative_error(w, dequantize_bases(*fit_bases(w, count, basis)))) for count in range(2, 6)]


def test_abc_errors_on_normal_weights():
    """The error is a mean over 1.2 million weights. One squared error deviates by less than 3 of its mean, so the mean
    does by less than 0.3 %. Half a unit of the last printed digit is added."""
    for found, expected in zip(normal_errors("abc"), ABC_TABLE, strict=True):
        assert abs(found - expected) < 5e-4 + 0.01 * expected


def test_alternating_errors_on_normal_weights():
    """At most the documented error (half a unit of its last digit, 1 % for sampling as above), and at least that of the
    best 2^M unconstrained levels (2 % for sampling, and for the M scales fitted to each 4608 weights)."""
    for found, expected, bound in zip(normal_errors("alternating"), ALTERNATING_TABLE, FREE_LEVELS, strict=True):
        assert 0.98 * bound <= found <= 5e-5 + 1.01 * expected


def test_coded_errors_on_normal_weights():
    """Those of the best uniform quantizer, to 2 % for sampling and for the step fitted to each 4608 weights."""
    for found, expected in zip(normal_errors("coded"), MAX_TABLE, strict=True):
        assert abs(found - expected) < 0.02 * expected


@pytest.mark.parametrize("weight_bases", [1, 2, 3, 5, 8])
def test_coded_weights_are_a_step_times_an_odd_integer(weight_bases):
    """Nearest of them, and the step that is best for those: no code and no step alone would do better."""
    w = torch.randn(6, 400) * torch.logspace(-20, 20, 6)[:, None]
    bases, scales = fit_bases(w, weight_bases, "coded")
    assert torch.equal(scales[1:], 2 * scales[:-1])
    step, top = scales[0].double()[:, None], 2**weight_bases - 1
    codes = torch.einsum("p,pok->ok", 2.0 ** torch.arange(weight_bases).double(), bases.double())
    nearest = (2 * torch.floor(w / step / 2) + 1).clamp(-top, top)
    assert (codes == nearest).double().mean() > 0.99  # the step moved a little after the last search
    best = (w * codes).sum(-1, keepdim=True) / codes.square().sum(-1, keepdim=True)
    torch.testing.assert_close(step, best, rtol=1e-5, atol=0)


def test_abc_masks_are_those_of_the_paper():
    w = torch.randn(3, 40).double()
    bases, _ = fit_bases(w, 3, "abc")
    mean, deviation = w.mean(-1, keepdim=True), w.std(-1, unbiased=False, keepdim=True)
    for plane, shift in zip(bases, (-1, 0, 1), strict=True):
        assert torch.equal(plane.double(), torch.where(w - mean + shift * deviation >= 0, 1.0, -1.0).double())
    assert torch.equal(fit_bases(w, 1, "abc")[0][0].double(), torch.where(w >= mean, 1.0, -1.0).double())


@pytest.mark.parametrize("basis", KINDS)
@pytest.mark.parametrize("weight_bases", [1, 2, 5, 8])
def test_degenerate_channels(basis, weight_bases):
    """Zero, constant and single weights: finite scales, and exact wherever one scale is enough."""
    w = torch.zeros(3, 5)
    w[1], w[2] = 0.75, -2.0
    bases, scales = fit_bases(w, weight_bases, basis)
    assert (scales[:, 0] == 0).all()
    torch.testing.assert_close(dequantize_bases(bases, scales), w, rtol=1e-6, atol=0)
    one = torch.tensor([[3.0], [-0.1], [0.0]])
    torch.testing.assert_close(dequantize_bases(*fit_bases(one, weight_bases, basis)), one, rtol=1e-6, atol=0)
    assert set(bases.unique().tolist()) <= {-1, 1}


def test_repeated_bases_get_the_minimum_norm_scales():
    w = torch.randn(2, 9)
    plane = torch.where(w < 0, -1, 1).to(torch.int8)
    scales = fit_scales(w, torch.stack([plane, plane, -plane]))
    mean = w.abs().mean(-1)
    torch.testing.assert_close(scales, torch.stack([mean, mean, -mean]) / 3)


@pytest.mark.parametrize("basis", KINDS)
def test_one_scale_per_layer(basis):
    w = torch.randn(4, 30)
    bases, scales = fit_bases(w, 2, basis, per_channel=False)
    assert (scales == scales[:, :1]).all()
    flat_bases, flat_scales = fit_bases(w.reshape(1, -1), 2, basis)
    assert torch.equal(bases, flat_bases.reshape(2, 4, 30))
    assert torch.equal(scales[:, :1], flat_scales)


@pytest.mark.parametrize("basis", KINDS)
@pytest.mark.parametrize("power", [-120, -40, 60, 126])
def test_scales_follow_the_unit_of_the_weights(basis, power):
    w = torch.rand(3, 50) - 0.5
    bases, scales = fit_bases(w, 3, basis)
    scaled_bases, scaled_scales = fit_bases(w * 2.0**power, 3, basis)
    assert torch.equal(bases, scaled_bases)
    # scales below 2^-126 lose bits; the smallest here are some 2^-10 · 2^-120
    torch.testing.assert_close(scaled_scales / 2.0**power, scales, rtol=1e-6, atol=2e-3 if power < -100 else 0)


@pytest.mark.parametrize("basis", KINDS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_float_types_are_computed_in_f32(basis, dtype):
    w = torch.randn(4, 33).to(dtype)
    bases, scales = fit_bases(w, 2, basis)
    expected_bases, expected_scales = fit_bases(w.float(), 2, basis)
    assert (bases.dtype, scales.dtype) == (torch.int8, torch.float32)
    assert torch.equal(bases, expected_bases)
    assert torch.equal(scales, expected_scales)


@pytest.mark.parametrize("basis", KINDS)
def test_strides_and_gradients_do_not_matter(basis):
    w = torch.randn(33, 4)
    expected = fit_bases(w.T.contiguous(), 3, basis)
    found = fit_bases(w.requires_grad_().T, 3, basis)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert not found[1].requires_grad


def test_rows_do_not_depend_on_their_neighbors(monkeypatch):
    """Large layers are fitted in parts: the parts must not show."""
    w = torch.randn(7, 64)
    whole = fit_bases(w, 3)
    monkeypatch.setattr("abcfx.quant.weights.CHUNK", 128)
    parts = fit_bases(w, 3)
    assert torch.equal(whole[0], parts[0])
    torch.testing.assert_close(whole[1], parts[1], rtol=1e-6, atol=0)  # one more iteration of converged rows


@pytest.mark.parametrize("shape", [(0, 5), (4, 0), (0, 0)])
def test_empty_weights(shape):
    bases, scales = fit_bases(torch.empty(shape), 2)
    assert bases.shape == (2, *shape)
    assert torch.equal(scales, torch.zeros(2, shape[0]))


@pytest.mark.parametrize("basis", KINDS)
def test_what_is_not_finite_is_counted(basis):
    w = torch.ones(2, 3)
    w[0, 1], w[1, 2], w[1, 1] = torch.nan, torch.inf, -torch.inf
    with pytest.raises(ValueError, match="weights must be finite: 1 NaN and 2 infinite among 6 values"):
        fit_bases(w, 2, basis)


def test_bad_arguments():
    w = torch.ones(2, 3)
    with pytest.raises(ValueError, match="1 to 8, got 9"):
        fit_bases(w, 9)
    with pytest.raises(ValueError, match="1 to 8, got 0"):
        fit_bases(w, 0)
    with pytest.raises(ValueError, match="alternating, coded, greedy, abc, got 'best'"):
        fit_bases(w, 2, "best")
    with pytest.raises(ValueError, match=r"\[channels, depth\], got shape \(3,\)"):
        fit_bases(w[0], 2)


def test_relative_error():
    x = torch.tensor([3.0, 4.0])
    assert relative_error(x, torch.tensor([3.0, 3.0])) == pytest.approx(1 / 25)
    assert relative_error(torch.zeros(2), torch.zeros(2)) == 0
    assert relative_error(torch.zeros(2), x) == torch.inf


@pytest.mark.parametrize("repeated", [False, True])
@pytest.mark.parametrize("m", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("depth", [9, 300, 4608])
def test_scales_without_waiting_for_a_gpu(m: int, depth: int, repeated: bool) -> None:
    """Least norm where bases repeat, or are each other's negative, or are more than there are weights."""
    planes = torch.randint(0, 2, (20, m, depth)).double() * 2 - 1
    if repeated:
        planes[:, m - 1] = -planes[:, 0]
    gram, moment = planes @ planes.mT, planes @ torch.randn(20, depth, 1).double()
    wanted = solve_scales(gram, moment)
    torch.testing.assert_close(solve_without_waiting(gram, moment), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(solve_without_waiting(gram / depth, moment / depth), wanted, rtol=1e-5, atol=1e-5)
