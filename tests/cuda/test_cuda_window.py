"""The text of the CUDA window and adjoint kernels, run on the CPU: bits, dx and sums of the CPU's own, bit for bit."""

from __future__ import annotations

import pytest
import torch
from emulated_cuda import call
from kernel_abi import BAD_SHAPE, OK, Guarded, fenced, variant
from kernel_abi import call as call_cpu
from test_pack import DTYPES, LEVELS
from test_window import CHUNK, adjoint_args, edges_of, levels_of, values_of, window_args, windows_of

from abcfx.quant import bits, ste


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 8, 257, 1000, 2049])
def test_windows(count: int, dtype: torch.dtype) -> None:
    x = values_of(count, dtype)
    for levels, planes in LEVELS:
        scale, shift = levels_of(levels, planes)
        edges = edges_of(levels, planes)
        wanted = bits.pack_bytes(ste.activation_windows(x, scale, shift, planes, levels, edges))
        dst = Guarded(*wanted.shape, dtype=torch.uint8)
        args = window_args(x, dst.tensor, scale, shift, edges, levels, planes)
        assert call("abcfx_cuda_window", args, None) == OK
        assert torch.equal(dst.tensor, wanted), (levels, planes)


@pytest.mark.parametrize("sample", [0, 7, 20000])
@pytest.mark.parametrize(("levels", "planes"), [("coded", 1), ("coded", 4), ("thermometer", 2), ("thermometer", 8)])
@pytest.mark.parametrize("count", [1, 257, 2 * CHUNK + 1021])
def test_adjoint(count: int, levels: str, planes: int, sample: int) -> None:
    grad = fenced(torch.randn(count))
    windows, packed, scale = windows_of(count, planes, levels)
    factors = fenced(torch.randn(-(-count // sample))) if sample else None
    rows, found = len(windows), []
    for cpu in (True, False):
        dx, sums = Guarded(count, dtype=torch.float32), Guarded(-(-count // CHUNK), rows, dtype=torch.float64)
        ends = [Guarded(rows // 2, dtype=torch.float32).tensor for _ in range(2)]
        args = adjoint_args(grad, packed, scale, dx.tensor, sums.tensor, levels, planes, factors, sample)
        if cpu:
            assert variant("adjoint", "portable")(args) == OK
            assert call_cpu("abcfx_adjoint_finish", args, *ends) == OK
        else:
            assert call("abcfx_cuda_adjoint", args, None) == OK
            assert call("abcfx_cuda_adjoint_finish", args, *ends, None) == OK
        found.append([dx.tensor, sums.tensor, *ends])
    for wanted, got in zip(*found, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_overflow_is_not_hidden_by_a_window(levels: str) -> None:
    grad = torch.randn(300)
    grad[::7], grad[3::7] = torch.inf, torch.nan
    windows, packed, scale = windows_of(300, 2, levels)
    dx, sums = Guarded(300, dtype=torch.float32), Guarded(1, len(windows), dtype=torch.float64)
    assert call("abcfx_cuda_adjoint", adjoint_args(grad, packed, scale, dx.tensor, sums.tensor, levels, 2), None) == OK
    wanted = ste.window_adjoint(grad, windows, scale, 2, levels)[0]
    torch.testing.assert_close(dx.tensor, wanted, rtol=0, atol=0, equal_nan=True)
    assert not sums.tensor.isfinite().any()


@pytest.mark.parametrize(("field", "value"), [("planes", 9), ("levels", 2), ("levels", 1), ("dtype", 3)])
def test_bad_windows_are_refused(field: str, value: int) -> None:
    """Thermometer levels (1) without edges among them."""
    dst = Guarded(2, 113, dtype=torch.uint8)
    args = window_args(torch.randn(900), dst.tensor, *levels_of("coded", 2), None, "coded", 2)
    setattr(args, field, value)
    assert call("abcfx_cuda_window", args, None) == BAD_SHAPE
    assert dst.untouched().all()


@pytest.mark.parametrize(("field", "value"), [("planes", 0), ("levels", 2), ("sample_scale", 64)])
def test_bad_adjoints_are_refused(field: str, value: int) -> None:
    """Factors for samples of no element among them."""
    _windows, packed, scale = windows_of(300, 2, "coded")
    dx, sums = Guarded(300, dtype=torch.float32), Guarded(1, 2, dtype=torch.float64)
    args = adjoint_args(torch.randn(300), packed, scale, dx.tensor, sums.tensor, "coded", 2)
    setattr(args, field, value)
    assert call("abcfx_cuda_adjoint", args, None) == BAD_SHAPE
    assert dx.untouched().all()
