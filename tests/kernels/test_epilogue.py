"""Every variant of epilogue/kernels.inc: the numbers of the same steps in torch, and no byte outside the rows."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from kernel_abi import BAD_SHAPE, EPILOGUE, OK, Guarded, variant
from torch import Tensor

NAMES = ("avx2", "portable")
LARGEST = torch.finfo(torch.float32).max
CLIPS = [(-LARGEST, LARGEST), (0.0, LARGEST), (-0.5, 0.75), (-math.inf, 0.0)]


def operands(cols: int) -> dict[str, Tensor]:
    values = torch.randn(7, cols)
    values[torch.rand(7, cols) < 0.05] = torch.nan
    values[torch.rand(7, cols) < 0.05] = torch.inf
    names = ("gain", "offset", "slope")
    return {"src": values, "residual": torch.randn(7, cols), **{name: torch.randn(cols) for name in names}}


def expected(given: dict[str, Tensor], use: tuple[bool, bool, bool], clip: tuple[float, float]) -> Tensor:
    affine, residual, slope = use
    t = given["src"]
    t = t * given["gain"] + given["offset"] if affine else t
    t = t + given["residual"] if residual else t
    t = torch.where(t > 0, t, t * given["slope"]) if slope else t
    low, high = clip
    t = t.clamp(min=low) if low > -LARGEST else t
    return t.clamp(max=high) if high < LARGEST else t


def run(
    name: str, given: dict[str, Tensor], use: tuple[bool, bool, bool], clip: tuple, dst: Tensor, rows: tuple
) -> int:
    affine, residual, slope = use
    wanted = {"residual": residual, "gain": affine, "offset": affine, "slope": slope}
    pointers = {key: given[key].data_ptr() if used else None for key, used in wanted.items()}
    cols = dst.shape[1]
    steps = (given["src"].stride(0), dst.stride(0), given["residual"].stride(0))
    return variant("epilogue", name)(
        EPILOGUE(given["src"].data_ptr(), dst.data_ptr(), *pointers.values(), *clip, cols, *steps, *rows)
    )


@pytest.mark.parametrize("cols", [1, 3, 8, 19, 64])
@pytest.mark.parametrize("name", NAMES)
def test_steps_in_order(name: str, cols: int) -> None:
    for use in itertools.product((False, True), repeat=3):
        for clip in CLIPS:
            given = operands(cols)
            dst = Guarded(7, cols, dtype=torch.float32)
            assert run(name, given, use, clip, dst.tensor, (0, 7)) == OK
            assert torch.equal(dst.tensor.nan_to_num(1e9), expected(given, use, clip).nan_to_num(1e9)), (use, clip)


@pytest.mark.parametrize("name", NAMES)
def test_in_place_on_some_rows(name: str) -> None:
    given = operands(19)
    wanted = given["src"].clone()
    wanted[2:5] = expected(given, (True, True, True), (0.0, 1.0))[2:5]
    assert run(name, given, (True, True, True), (0.0, 1.0), given["src"], (2, 5)) == OK
    assert torch.equal(given["src"].nan_to_num(1e9), wanted.nan_to_num(1e9))


@pytest.mark.parametrize("name", NAMES)
def test_half_an_affine_is_refused(name: str) -> None:
    src = torch.zeros(2, 4)
    arguments = EPILOGUE(
        src.data_ptr(), src.data_ptr(), None, src.data_ptr(), None, None, 0.0, 1.0, 4, 4, 4, 4, 0, 2
    )  # fmt: skip
    assert variant("epilogue", name)(arguments) == BAD_SHAPE
