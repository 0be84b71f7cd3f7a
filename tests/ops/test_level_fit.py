"""The compiled fit of activation levels against the torch one it follows step by step."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import abcfx  # noqa: F401  registers the ops
from abcfx.ops import kernel_refit, level_fit, library
from abcfx.quant import activations
from abcfx.quant.cells import SortedRows

needs_library = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")

SAMPLES = {
    "normal": lambda: torch.randn(5000),
    "after ReLU": lambda: torch.randn(5000).relu(),
    "far from 0": lambda: torch.randn(700) + 40,
    "few values": lambda: torch.randint(-2, 3, (999,)).float(),
    "one outlier": lambda: torch.cat([torch.randn(3000), torch.tensor([1e4])]),
    "three": lambda: torch.tensor([-1.0, 0.5, 2.0]),
    "one value": lambda: torch.full((50,), 0.75),
    "zeros": lambda: torch.zeros(50),
}


def error(x: Tensor, levels: tuple[Tensor, Tensor], n: int) -> float:
    return float((x - activations.quantize(x, *levels, n, "coded")).double().square().sum())


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8])
@pytest.mark.parametrize("kind", SAMPLES)
def test_as_good_as_the_fit_in_torch(kind: str, n: int) -> None:
    """Of levels that err equally, with fewer samples than levels for instance, the two may take different ones."""
    x = SAMPLES[kind]()
    found, wanted = (error(x, fit(x, n, "coded"), n) for fit in (level_fit.fit, activations.fit))
    assert found == pytest.approx(wanted, rel=1e-5, abs=1e-9 * float(x.double().square().sum()))


def test_the_same_levels_as_torch_where_there_is_one_best() -> None:
    x = torch.randn(5000).relu()
    for n in (1, 2, 4):
        for value, right in zip(level_fit.fit(x, n, "coded"), activations.fit(x, n, "coded"), strict=True):
            torch.testing.assert_close(value, right)


def operands(lines: Tensor, count: int = 400) -> tuple[Tensor, Tensor, Tensor]:
    rows = SortedRows.of(torch.randn(count))
    return rows.values, rows.prefix, lines


@needs_library
@pytest.mark.parametrize("anchored", [True, False])
@pytest.mark.parametrize("alternations", [1, 2, 100])
@pytest.mark.parametrize("top", [1, 3, 255])
def test_the_alternation_is_its_reference(top: int, alternations: int, anchored: bool) -> None:
    """From starts of every size, one that gives all samples the same code and one that turns the codes around."""
    starts = torch.tensor([[1.0, 0.0], [0.3, -1.0], [1e-3, -2.0], [50.0, 0.0], [1e6, 1e6], [-0.5, 1.0]]).double()
    given = operands(starts)
    found = torch.ops.abc_k.fit_lines(*given, top, anchored, alternations)
    wanted = kernel_refit.fit_lines(*given, top, anchored, alternations)
    for value, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(value[:-1], right[:-1], rtol=1e-8, atol=1e-8)
    if alternations == 1:
        torch.testing.assert_close(found[0][-1], wanted[0][-1], rtol=1e-8, atol=1e-8)


def test_thermometer_levels_are_those_of_torch() -> None:
    x = torch.randn(2000)
    for value, right in zip(level_fit.fit(x, 3, "thermometer"), activations.fit(x, 3, "thermometer"), strict=True):
        assert torch.equal(value, right)


@needs_library
def test_bad_operands_are_refused() -> None:
    values, prefix, lines = operands(torch.ones(2, 2).double())
    with pytest.raises(RuntimeError, match=r"prefix must have shape \[401\], got \[400\]"):
        torch.ops.abc_k.fit_lines(values, prefix[1:], lines, 3, False, 1)
    with pytest.raises(RuntimeError, match="lines must have shape"):
        torch.ops.abc_k.fit_lines(values, prefix, lines[:, :1], 3, False, 1)
    with pytest.raises(RuntimeError, match="highest code must be from 1 to 255, got 256"):
        torch.ops.abc_k.fit_lines(values, prefix, lines, 256, False, 1)
    with pytest.raises(RuntimeError, match="sorted must not be empty"):
        torch.ops.abc_k.fit_lines(values[:0], prefix[:1], lines, 3, False, 1)
