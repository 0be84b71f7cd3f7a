"""ŷ = g·z + h from moments of (exact y, quantized z): against the formula, and where the data say little."""

import pytest
import torch

from abcfx.quant.correction import LEAST_CORRELATION, LEAST_ROWS, OutputMoments


def affine(*pairs):
    moments = OutputMoments()
    for exact, quantized in pairs:
        moments.add(exact, quantized)
    return moments.affine()


def by_hand(*pairs):
    """g = √ρ·σ_y/σ_z and h = m_y - g·m_z of weighted samples, one channel after the other."""
    weights, ys, zs = [], [], []
    for y, z in pairs:
        error = (y.double() - z.double()).square().mean(1)
        weights.append(1 / (1 + error / error.median()))
        ys.append(y.double())
        zs.append(z.double())
    w, y, z = torch.cat(weights), torch.cat(ys), torch.cat(zs)
    gains, shifts = [], []
    for channel in range(y.shape[1]):
        mean_y, mean_z = (w * y[:, channel]).sum() / w.sum(), (w * z[:, channel]).sum() / w.sum()
        cov = torch.cov(torch.stack([y[:, channel], z[:, channel]]), correction=0, aweights=w)
        correlation = cov[0, 1] / (cov[0, 0] * cov[1, 1]).sqrt()
        gains.append((correlation * cov[0, 0] / cov[1, 1]).sqrt())
        shifts.append(mean_y - gains[-1] * mean_z)
    return torch.stack(gains).float(), torch.stack(shifts).float()


def pair(rows):
    deviation = torch.tensor([1.0, 5.0, 0.1])
    y = torch.randn(rows, 3) * deviation + torch.tensor([0.0, 2.0, -7.0])
    return y, 0.8 * y + 0.3 * deviation * torch.randn(rows, 3) + 0.5


def test_formula():
    first, second = pair(500), pair(300)
    for found, expected in zip(affine(first, second), by_hand(first, second), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # f32 results of f64 sums


def test_exact_outputs_stay():
    y, _ = pair(200)
    gain, shift = affine((y, y))
    torch.testing.assert_close(gain, torch.ones(3), rtol=1e-6, atol=0)
    torch.testing.assert_close(shift, torch.zeros(3), rtol=0, atol=1e-5)


def test_a_scaled_and_shifted_output_is_restored():
    """Without noise ρ = 1 and the map is undone; 2000 rows, f64 sums."""
    y, _ = pair(2000)
    quantized = y * torch.tensor([0.5, 2.0, 0.9]) + torch.tensor([1.0, -3.0, 0.0])
    gain, shift = affine((y, quantized))
    torch.testing.assert_close(gain * quantized + shift, y, rtol=1e-4, atol=1e-4)


def test_the_mean_is_restored():
    """Of the weighted rows, exactly; of all rows, when their errors are alike, to within a few hundredths of σ."""
    y, z = pair(20_000)
    gain, shift = affine((y, z))
    assert (((gain * z + shift).mean(0) - y.mean(0)).abs() < 0.05 * y.std(0)).all()


def test_a_few_bad_rows_do_not_decide():
    """One row in twenty is off by a hundred σ, as the outlier tokens of a transformer are. Unweighted they would shift
    all the others by 5 σ; a weight near 1/100² leaves 5 % · 100/100² σ, and what sampling adds."""
    y = torch.randn(4000, 3)
    z = 0.9 * y + 0.1 * torch.randn(4000, 3)
    z[::20] += 100
    gain, shift = affine((y, z))
    good = torch.arange(4000) % 20 != 0
    assert ((gain * z + shift - y)[good].mean(0).abs() < 0.2).all()
    assert (y - z).mean(0).abs().min() > 4.5


def test_unrelated_outputs_are_not_amplified_nor_silenced():
    y, z = 2 * torch.randn(5000, 2), torch.randn(5000, 2)
    gain, _ = affine((y, z))
    # a deviation estimated from 5000 weighted rows is good to some 2 %, and rows of small error weigh more
    torch.testing.assert_close(gain, torch.full((2,), 2 * LEAST_CORRELATION**0.5), rtol=0.15, atol=0)


def test_constant_channels_keep_their_gain():
    y, z = torch.randn(200, 3), torch.randn(200, 3)
    y[:, 0], z[:, 1] = 4.0, -1.0
    gain, shift = affine((y, z))
    assert gain[:2].tolist() == [1, 1]
    assert shift[0] == pytest.approx(4.0, abs=0.3)  # 4 less the mean of 200 normal numbers
    assert torch.isfinite(torch.cat([gain, shift])).all()


@pytest.mark.parametrize("rows", [1, LEAST_ROWS - 1])
def test_few_rows_say_nothing(rows):
    gain, shift = affine(pair(rows))
    assert torch.equal(gain, torch.ones(3))
    assert torch.equal(shift, torch.zeros(3))


def test_no_rows():
    moments = OutputMoments()
    with pytest.raises(ValueError, match="no outputs were seen"):
        moments.affine()
    moments.add(torch.empty(0, 3), torch.empty(0, 3))
    with pytest.raises(ValueError, match="no outputs were seen"):
        moments.affine()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types(dtype):
    y, z = pair(300)
    gain, shift = affine((y.to(dtype), z.to(dtype)))
    expected = by_hand((y.to(dtype), z.to(dtype)))
    assert (gain.dtype, shift.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close((gain, shift), expected, rtol=1e-5, atol=1e-4)
