"""The compiled fit from scratch against the torch one it follows step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_refit, library, weight_fit
from abcfx.plan import SEARCHED
from abcfx.quant import weights
from abcfx.quant.alternating import descending, root_mean_square
from abcfx.quant.cells import SortedRows
from abcfx.quant.weights import dequantize_bases

needs_library = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")


def rows_like(kind: str, outputs: int, depth: int) -> Tensor:
    if kind == "laplace":
        return torch.distributions.Laplace(0.0, 1.0).sample((outputs, depth))
    if kind == "few values":  # ties on edges, bases that repeat
        return torch.randint(-2, 3, (outputs, depth)).float()
    return torch.randn(outputs, depth) * torch.logspace(-20, 20, outputs).unsqueeze(1)


def errors(w: Tensor, fit: tuple[Tensor, Tensor]) -> Tensor:
    power = w.double().square().sum(-1).clamp_min(1e-60)
    return (w.double() - dequantize_bases(*fit)).square().sum(-1) / power


@needs_library
@pytest.mark.parametrize("kind", ["normal", "laplace", "few values"])
@pytest.mark.parametrize("m", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("basis", SEARCHED)
def test_as_small_an_error_as_the_search_in_torch(basis: str, kind: str, m: int) -> None:
    """Rounding may send a row to a neighboring optimum, of an error that differs by 5e-4 of ‖w‖² at most."""
    for outputs, depth in ((40, 65), (9, 3), (3, 1), (130, 288)):
        w = rows_like(kind, outputs, depth)
        found, wanted = errors(w, weight_fit.fit_bases(w, m, basis)), errors(w, weights.fit_bases(w, m, basis))
        assert (found <= wanted + 5e-4).all()
        assert float(found.mean()) <= float(wanted.mean()) * 1.01 + 1e-9


@needs_library
@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("threads", [1, 4])
def test_search_is_its_reference(threads: int, coded: bool) -> None:
    w = torch.randn(200, 50)
    rows = SortedRows.of(w)
    operands = rows.values, rows.prefix, root_mean_square(w), 3, coded
    kept = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = torch.ops.abc_k.search_scales(*operands)
    finally:
        torch.set_num_threads(kept)
    wanted = kernel_refit.search_scales(*operands)
    torch.testing.assert_close(descending(found), descending(wanted), rtol=1e-9, atol=1e-12)


def test_zero_rows_have_no_scale() -> None:
    w = torch.randn(4, 20)
    w[2] = 0
    bases, scales = weight_fit.fit_bases(w, 3)
    assert (scales[:, 2] == 0).all()
    assert bases.abs().eq(1).all()


@pytest.mark.parametrize("basis", ["greedy", "abc"])
def test_the_other_bases_are_those_of_torch(basis: str) -> None:
    w = torch.randn(6, 40)
    for found, wanted in zip(weight_fit.fit_bases(w, 3, basis), weights.fit_bases(w, 3, basis), strict=True):
        assert torch.equal(found, wanted)


@needs_library
def test_bad_operands_are_refused() -> None:
    values, prefix, rms = torch.zeros(4, 6), torch.zeros(4, 7).double(), torch.zeros(4).double()
    with pytest.raises(RuntimeError, match=r"prefix must have shape \[4, 7\], got \[4, 6\]"):
        torch.ops.abc_k.search_scales(values, prefix[:, 1:], rms, 2)
    with pytest.raises(RuntimeError, match="number of bases must be from 1 to 8, got 9"):
        torch.ops.abc_k.search_scales(values, prefix, rms, 9)
    with pytest.raises(RuntimeError, match="sorted must not be empty"):
        torch.ops.abc_k.search_scales(values[:, :0], prefix[:, :1], rms, 2)
