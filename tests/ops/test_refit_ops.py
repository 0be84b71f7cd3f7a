"""abc_k::refit_weights and dequantize_weights against their references, and what an alternation promises."""

from __future__ import annotations

import pytest
import torch

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_refit, library
from abcfx.quant.alternating import nearest_bases
from abcfx.quant.weights import dequantize_bases, fit_bases

ops = torch.ops.abc_k
needs_library = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


@needs_library
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_op_is_its_reference(m: int, threads: int) -> None:
    """Of weights as convolutions store them, channels before taps; threads take parts of the rows."""
    before = torch.randn(70, 33, 9).transpose(1, 2)
    _, alpha = fit_bases(before.flatten(1), m)
    weight = before + 0.05 * torch.randn(70, 33, 9).transpose(1, 2)
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        bases, scales, error, _power = ops.refit_weights(weight, alpha, 1)
        dense, sums = ops.dequantize_weights(bases, scales)
    finally:
        torch.set_num_threads(kept)
    wanted = kernel_refit.refit_weights(weight, alpha, 1)
    assert torch.equal(bases, wanted[0])
    torch.testing.assert_close(scales, wanted[1], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(error, wanted[2], rtol=1e-4, atol=0)  # 1e-6 of the power, of which M = 5 leaves 0.0035
    wanted_dense, wanted_sums = kernel_refit.dequantize_weights(bases, scales)
    assert torch.equal(dense, wanted_dense)
    torch.testing.assert_close(sums, wanted_sums)
    torch.testing.assert_close((dense.transpose(1, 2) - weight).square().sum((1, 2)).double(), error, rtol=1e-4, atol=0)


@pytest.mark.parametrize("alternations", [1, 2])
@pytest.mark.parametrize("moved", [0.0, 0.01, 0.3, 3.0])
@pytest.mark.parametrize("m", [1, 2, 3, 4, 8])
def test_never_worse_than_what_was_kept(m: int, moved: float, alternations: int) -> None:
    """Nor than the old scales with the codes nearest to the new weights, however far these have moved."""
    before = torch.randn(20, 3, 50)
    kept_bases, kept = fit_bases(before.flatten(1), m)
    weight = before + moved * torch.randn(20, 3, 50)
    flat = weight.flatten(1)
    bases, scales, *_ = ops.refit_weights(weight, kept, alternations)

    def error(bases: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        return (flat - dequantize_bases(bases, scales)).double().square().sum(-1)

    found, slack = error(bases.flatten(2), scales), 1e-6 * flat.square().sum(-1)  # f32 rounding of ŵ
    assert (found <= error(kept_bases, kept) + slack).all()
    assert (found <= error(nearest_bases(flat, kept.T.double()), kept) + slack).all()


@needs_library
def test_bad_operands_are_refused() -> None:
    weight, alpha = torch.randn(4, 2, 8), torch.rand(2, 4)
    with pytest.raises(RuntimeError, match=r"alpha must have shape \[any, 4\], got \[2, 5\]"):
        ops.refit_weights(weight, torch.rand(2, 5), 1)
    with pytest.raises(RuntimeError, match=r"must be a CPU tensor of Float \[outputs, taps, channels\], got Double"):
        ops.refit_weights(weight.double(), alpha, 1)
    with pytest.raises(RuntimeError, match="alternations must be from 1 to 2147483647, got 0"):
        ops.refit_weights(weight, alpha, 0)
    with pytest.raises(RuntimeError, match="weight must not be empty"):
        ops.refit_weights(weight[:, :0], alpha, 1)
    with pytest.raises(RuntimeError, match=r"alpha must have shape \[2, 4\], got \[3, 4\]"):
        ops.dequantize_weights(torch.ones(2, 4, 1, 8, dtype=torch.int8), torch.rand(3, 4))
