"""Every variant of round/kernels.inc, bit for bit against the reference in plain torch, on every kind of strides."""

from __future__ import annotations

import pytest
import torch
from kernel_abi import BAD_SHAPE, OK, Guarded, P, fenced, structure, variant
from test_pack import LAYOUTS

from abcfx.ops.kernel_gradients import round_gradient

VARIANTS = ("avx2", "portable")
ROUND = structure(
    "abcfx_round_args",
    "src dst gain inverse seed planes gains images channels height width stride_n stride_c stride_h stride_w "
    "inverse_step pixel_begin pixel_end",
    dict.fromkeys("src dst gain inverse".split(), P),
)
SHAPES = [(1, 1, 1, 1), (2, 3, 5, 4), (3, 16, 7, 7), (1, 70, 3, 18), (2, 130, 2, 9)]
SEED = 2**33 + 7


def problem(shape: tuple[int, ...], layout: str, gains: int, planes: int) -> tuple[ROUND, Guarded, torch.Tensor, tuple]:
    """Arguments, the output, what it must be, and what must stay alive."""
    n, c, h, w = shape
    src = fenced(LAYOUTS[layout](torch.randn, n, c, h, w))
    gain, inverse = fenced(torch.randn(gains, c)), fenced(torch.rand(n) * 2**planes)
    dst = Guarded(n, h, w, gains * c, dtype=torch.bfloat16)
    args = ROUND(
        src=src.data_ptr(), dst=dst.tensor.data_ptr(), gain=gain.data_ptr(), inverse=inverse.data_ptr(), seed=SEED,
        planes=planes, gains=gains, images=n, channels=c, height=h, width=w, inverse_step=1, pixel_end=n * h * w,
        **dict(zip(("stride_n", "stride_c", "stride_h", "stride_w"), src.stride(), strict=True)),
    )  # fmt: skip
    wanted = round_gradient(src, gain, inverse, torch.tensor([SEED]), planes).permute(0, 2, 3, 1)
    return args, dst, wanted, (src, gain, inverse)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("gains", "planes"), [(1, 1), (2, 4), (3, 8)])
def test_exact(name: str, layout: str, shape: tuple[int, ...], gains: int, planes: int) -> None:
    args, dst, wanted, _alive = problem(shape, layout, gains, planes)
    assert variant("round", name)(args) == OK
    assert torch.equal(dst.tensor, wanted)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_a_range_of_pixels_is_made_on_its_own(name: str, layout: str) -> None:
    args, dst, wanted, _alive = problem((2, 19, 5, 6), layout, 2, 4)
    args.pixel_begin, args.pixel_end = 7, 41
    assert variant("round", name)(args) == OK
    got, wanted = dst.tensor.view(60, -1), wanted.reshape(60, -1)
    assert torch.equal(got[7:41], wanted[7:41])
    untouched = dst.untouched().view(60, -1)
    assert untouched[:7].all()
    assert untouched[41:].all()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(("field", "value"), [("planes", 0), ("planes", 9), ("gains", 0), ("pixel_end", 41)])
def test_bad_arguments_are_refused(name: str, field: str, value: int) -> None:
    args, dst, _, _alive = problem((2, 3, 5, 4), "nhwc", 1, 4)
    setattr(args, field, value)
    assert variant("round", name)(args) == BAD_SHAPE
    assert dst.untouched().all()
