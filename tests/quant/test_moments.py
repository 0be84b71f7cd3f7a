"""Weights fitted to the moments of their inputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from abcfx.plan import SEARCHED
from abcfx.quant.moments import fit_to_moments, output_error
from abcfx.quant.weights import dequantize_bases, fit_bases


def correlated(groups: int, depth: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    mix = torch.randn(groups, depth, depth, generator=generator) / depth**0.5
    x = torch.relu(torch.randn(groups, 1000, depth, generator=generator) @ mix + 0.5)
    return x.mT @ x / 1000


@pytest.mark.parametrize("basis", SEARCHED)
@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("method", ["moments", "compensate"])
def test_lowers_the_output_error_of_correlated_inputs(method: str, per_channel: bool, basis: str) -> None:
    w, moments = torch.randn(2, 6, 36, generator=torch.Generator().manual_seed(1)), correlated(2, 36)
    plain = fit_bases(w.flatten(0, 1), 2, basis, per_channel)
    fitted = fit_to_moments(w, moments, 2, method, per_channel, basis=basis)
    assert basis != "coded" or torch.equal(fitted[1][1:], 2 * fitted[1][:-1])
    before, after = (output_error(w - dequantize_bases(*fit).view_as(w), moments) for fit in (plain, fitted))
    assert after.sum() < 0.8 * before.sum()
    if per_channel:
        assert (after <= before).all()
    else:
        assert torch.equal(fitted[1], fitted[1][:, :1].expand_as(fitted[1]))


@pytest.mark.parametrize("method", ["moments", "compensate"])
def test_equals_the_plain_fit_where_inputs_are_white(method: str) -> None:
    w = torch.randn(1, 8, 40, generator=torch.Generator().manual_seed(2))
    plain, fitted = fit_bases(w[0], 2), fit_to_moments(w, torch.eye(40)[None], 2, method)
    torch.testing.assert_close(dequantize_bases(*fitted), dequantize_bases(*plain), rtol=1e-5, atol=1e-6)


def test_refuses_what_it_cannot_use() -> None:
    w = torch.randn(1, 2, 4)
    with pytest.raises(ValueError, match="method must be one of error, moments, compensate"):
        fit_to_moments(w, torch.eye(4)[None], 2, "best")
    with pytest.raises(ValueError, match="moments \\[groups, depth, depth\\]"):
        fit_to_moments(w, torch.eye(5)[None], 2)
    with pytest.raises(ValueError, match="1 NaN"):
        fit_to_moments(w, torch.eye(4)[None].index_put((torch.tensor(0),) * 3, torch.tensor(torch.nan)), 2)
