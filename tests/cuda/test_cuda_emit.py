"""Products that emit bit planes: equal, bit for bit, to a float store and then the pack, on every kernel."""

from __future__ import annotations

import math

import pytest
import torch
from emulated_cuda import EMIT, call, device
from kernel_abi import BAD_SHAPE, OK, Guarded
from test_bgemm import Case
from test_cuda_bgemm import GEMV, LARGE, SMALL, Cuda
from test_cuda_pack import popcounts
from test_pack import DTYPES
from torch import Tensor

from abcfx.ops.kernel_pack import pack_image

CASES = [  # and the groups and padding of the next layer
    (Case(64, 1, 1, cols=130, size=(1, 70)), 1, (0, 0)), (Case(65, 2, 2, cols=70, size=(1, 66)), 1, (0, 0)),
    (Case(70, 1, 2, kernel=(3, 3), size=(7, 8), images=2, cols=66), 3, (1, 2)),
    (Case(40, 2, 1, kernel=(1, 3), size=(5, 9), groups=3, cols=34), 1, (2, 1)),
    (Case(40, 3, 3, kernel=(2, 1), size=(5, 4), groups=2, cols=35, stride=(1, 2)), 7, (1, 0)),
]  # fmt: skip
HOW = [
    (LARGE, torch.float32, "coded", 3), (LARGE, torch.float16, "thermometer", 2), (SMALL, torch.bfloat16, "coded", 1),
    (GEMV, torch.float32, "thermometer", 8),
]  # fmt: skip


def emit_args(**fields: int | float | Tensor | None) -> EMIT:
    """Without what is not named; tensors go as pointers, and must outlive the call."""
    plain = {name: value.data_ptr() if isinstance(value, Tensor) else value for name, value in fields.items()}
    return EMIT(**{"low": -math.inf, "high": math.inf, "groups": 1} | plain)


def levels_of(levels: str, planes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Thresholds among the values that products of this size have, ties included."""
    if levels == "coded":
        return torch.tensor([96.0]), torch.tensor([-100.0])
    return torch.rand(planes) + 0.1, torch.randint(-400, 100, (planes,)) / 2


@pytest.mark.parametrize(("kernel", "dtype", "levels", "planes"), HOW, ids=str)
@pytest.mark.parametrize(("case", "groups", "pad"), CASES, ids=str)
def test_equal_to_store_and_pack(
    case: Case, groups: int, pad: tuple, kernel: int, dtype: torch.dtype, levels: str, planes: int
) -> None:
    cuda, channels = Cuda(case), case.groups * case.cols
    problem = cuda.problem
    gain, offset = torch.randn(channels), torch.randn(channels) * 50
    residual = (torch.randn(problem.rows, channels) * 60).to(dtype)
    offset[channels // 2] = torch.nan
    scale, shift = levels_of(levels, planes)
    inverse = scale.reciprocal()
    h, w = problem.out
    plane = (case.images, h + 2 * pad[0], planes, w + 2 * pad[1])
    bits = Guarded(*plane, groups * -(-channels // groups // 64), dtype=torch.int64).tensor
    counts = Guarded(*plane, groups, dtype=torch.int32).tensor
    dst = Guarded(problem.rows, channels, dtype=dtype).tensor
    pointers = {"gain": gain.data_ptr(), "offset": offset.data_ptr()}
    args = cuda.args(dst, kernel=kernel, dst_type=DTYPES[dtype], low=-150.0, high=300.0, **pointers)
    assert call("abcfx_cuda_row_sums", args, cuda.counts, cuda.row_sum) == OK
    emit = emit_args(
        residual=residual, dst=bits, counts=counts, inverse=inverse, shift=shift, levels=int(levels == "thermometer"),
        planes=planes, groups=groups, top=pad[0], left=pad[1], bottom=pad[0], right=pad[1],
    )  # fmt: skip
    assert call("abcfx_cuda_bgemm_emit", args, emit) == OK
    image = dst.view(case.images, h, w, channels).permute(0, 3, 1, 2)
    wanted = pack_image(image, scale, shift, planes, levels, groups, pad)
    assert torch.equal(bits, wanted)
    assert torch.equal(counts, popcounts(wanted, groups))
    if levels == "coded":
        assert 0 < int(counts.sum()) < 0.9 * problem.rows * channels * planes
    # the floats are those of a store without bits, and need not be stored at all
    y = (problem.expected() * gain + offset + residual).clamp(-150, 300).float()
    assert torch.allclose(dst.float(), y, rtol=2e-2 if dtype != torch.float32 else 1e-5, atol=1e-3, equal_nan=True)
    again = bits.clone()
    bits.fill_(-1)
    args.dst = None
    assert call("abcfx_cuda_bgemm_emit", args, emit) == OK
    assert torch.equal(bits, again)


def test_the_emitted_floats_are_those_of_the_product() -> None:
    case = CASES[1][0]
    cuda = Cuda(case)
    plain, dst = (Guarded(cuda.problem.rows, case.cols, dtype=torch.float32).tensor for _ in range(2))
    cuda.problem.alpha.copy_(torch.randn_like(cuda.problem.alpha))
    assert cuda.run(plain) == OK
    scale, shift = levels_of("coded", 2)
    inverse = scale.reciprocal()
    bits = Guarded(1, 1, 2, cuda.problem.rows, 2, dtype=torch.int64).tensor
    emit = emit_args(dst=bits, inverse=inverse, shift=shift, planes=2)
    assert call("abcfx_cuda_bgemm_emit", cuda.args(dst), emit) == OK
    assert torch.equal(plain, dst)


@pytest.mark.parametrize(
    ("field", "value"),
    [("planes", 9), ("planes", 0), ("groups", 3), ("levels", 2), ("top", -1), ("dst", None), ("gain", 64)],
)
def test_what_is_refused(field: str, value: int | None) -> None:
    cuda = Cuda(CASES[1][0])
    dst = Guarded(cuda.problem.rows, 70, dtype=torch.float32)
    scale, shift = levels_of("coded", 1)
    inverse = scale.reciprocal()
    bits = Guarded(1, 1, 1, cuda.problem.rows, 2, dtype=torch.int64)
    emit = emit_args(dst=bits.tensor, inverse=inverse, shift=shift, planes=1)
    setattr(emit, field, value)
    assert call("abcfx_cuda_bgemm_emit", cuda.args(dst.tensor, low=-math.inf), emit) == BAD_SHAPE
    assert dst.untouched().all()
    assert bits.untouched().all()


@pytest.mark.parametrize("kernel", [LARGE, SMALL, GEMV])
@pytest.mark.parametrize("case", [CASES[0][0], CASES[3][0]], ids=str)
def test_what_follows_the_product(case: Case, kernel: int) -> None:
    """PReLU after the residual; affine and clip in front of the next layer, two roundings; floats alone, too."""
    cuda, channels = Cuda(case), case.groups * case.cols
    rows, (h, w) = cuda.problem.rows, cuda.problem.out
    residual, slope = torch.randn(rows, channels) * 60, torch.randn(channels)
    gain, offset = torch.randn(channels) / 3, torch.randn(channels) * 50
    scale, shift = levels_of("coded", 2)
    inverse = scale.reciprocal()
    dst = Guarded(rows, channels, dtype=torch.float32).tensor
    plain = cuda.args(dst, kernel=kernel)
    assert call("abcfx_cuda_row_sums", plain, cuda.counts, cuda.row_sum) == OK
    assert call("abcfx_cuda_bgemm", plain) == OK
    y = dst + residual
    y = torch.where(y > 0, y, y * slope).clamp(-90, 250)
    entering = (y * gain + offset).clamp(-40, 80)
    image = entering.view(case.images, h, w, channels).permute(0, 3, 1, 2)
    wanted = pack_image(image, scale, shift, 2, "coded", 1, (0, 0))
    bits = Guarded(*wanted.shape, dtype=torch.int64).tensor
    emit = emit_args(residual=residual, dst=bits, inverse=inverse, shift=shift, slope=slope, gain=gain, offset=offset,
                     low=-40.0, high=80.0, planes=2)  # fmt: skip
    args = cuda.args(dst, kernel=kernel, low=-90.0, high=250.0)
    assert call("abcfx_cuda_bgemm_emit", args, emit) == OK
    assert torch.equal(dst, y)
    assert torch.equal(bits, wanted)
    dst.zero_()
    assert call("abcfx_cuda_bgemm_emit", args, emit_args(residual=residual, slope=slope)) == OK
    assert torch.equal(dst, y)


def test_few_rows_emit_without_bit_units() -> None:
    cuda = Cuda(Case(200, 2, 2, cols=70, size=(1, 2)))
    dst = Guarded(2, 70, dtype=torch.float32).tensor
    scale, shift = levels_of("coded", 2)
    inverse = scale.reciprocal()
    bits = Guarded(1, 1, 2, 2, 2, dtype=torch.int64).tensor
    args = cuda.args(dst)
    assert call("abcfx_cuda_row_sums", args, cuda.counts, cuda.row_sum) == OK
    emit = emit_args(dst=bits, inverse=inverse, shift=shift, planes=2)
    with device(major=10):
        assert call("abcfx_cuda_bgemm_emit", args, emit) == OK
    assert torch.equal(bits, pack_image(dst.T.view(1, 70, 1, 2), scale, shift, 2, "coded", 1, (0, 0)))
