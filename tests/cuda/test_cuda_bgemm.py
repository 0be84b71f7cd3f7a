"""The text of the CUDA product, run on the CPU: integer-exact on ragged sizes, against float64 convolutions."""

from __future__ import annotations

import math

import pytest
import torch
from emulated_cuda import BGEMM, WEIGHTS, call, device
from kernel_abi import BAD_SHAPE, OK, Guarded
from test_bgemm import Case, Problem
from torch import Tensor

UNSUPPORTED, NO_BIT_UNITS = 2, 16
LARGE, SMALL, GEMV = 1, 2, 3
CASES = [
    Case(64, 1, 1, cols=9), Case(1000, 1, 1, cols=130, size=(1, 131)), Case(65, 2, 2, cols=70, size=(1, 66)),
    Case(200, 1, 2, cols=11), Case(577, 2, 1, cols=37), Case(130, 3, 3, cols=67, size=(1, 40)), Case(100, 8, 7, cols=5),
    Case(64, 2, 2, kernel=(3, 3), size=(9, 10), images=2), Case(128, 2, 3, kernel=(3, 3), size=(6, 7)),
    Case(65, 1, 2, kernel=(3, 2), stride=(2, 3), dilation=(2, 1), size=(9, 12)),
    Case(127, 3, 1, kernel=(1, 3), groups=2, cols=9, size=(4, 9)),
    Case(16, 2, 2, kernel=(3, 3), groups=3, cols=4, size=(6, 7), dilation=(2, 2), stride=(1, 2)),
]  # fmt: skip


class Cuda:
    """The operands of a problem as the CUDA product takes them; its weights packed by its own kernel."""

    def __init__(self, case: Case) -> None:
        self.problem = problem = Problem(case)
        g, c, (kh, kw) = case.groups, case.channels, case.kernel
        self.words = -(-c // 64)
        bases = problem.w.permute(0, 1, 3, 4, 2).reshape(case.m, g * case.cols, kh * kw, c).to(torch.int8).contiguous()
        self.w = Guarded(g, case.m, case.cols, kh * kw * self.words, dtype=torch.int64).tensor
        counts = Guarded(case.m, g * case.cols, dtype=torch.int32).tensor
        args = WEIGHTS(bases.data_ptr(), self.w.data_ptr(), counts.data_ptr(), None, case.m, g, case.cols, kh * kw, c)
        assert call("abcfx_cuda_pack_weights", args) == OK
        assert torch.equal(counts.long(), (bases < 0).flatten(2).sum(2))
        self.alpha_sum, beta_sum = problem.alpha.sum(0), float(problem.beta.sum())
        self.column_base = problem.depth * beta_sum * self.alpha_sum - 2 * beta_sum * (problem.alpha * counts).sum(0)
        minus = (problem.a < 0).view(case.n, case.images, g, c, *case.size).sum(3)
        self.counts = minus.permute(1, 3, 0, 4, 2).int().contiguous()
        self.row_sum = Guarded(problem.rows, g, dtype=torch.float32).tensor

    def args(self, dst: Tensor, **more: object) -> BGEMM:
        problem, case = self.problem, self.problem.case
        host = problem.args(dst)
        names = {name for name, _ in BGEMM._fields_} & {name for name, _ in type(host)._fields_} - {"w"}
        own = {"w": self.w, "alpha_sum": self.alpha_sum, "row_sum": self.row_sum, "column_base": self.column_base}
        args = BGEMM(
            **{name: getattr(host, name) for name in names}, **{name: t.data_ptr() for name, t in own.items()},
            low=-math.inf, high=math.inf,
        )  # fmt: skip
        args.words, args.cols = self.words, case.cols
        for name, value in more.items():
            setattr(args, name, value)
        return args

    def run(self, dst: Tensor, form: str = "and", **more: object) -> int:
        args = self.args(dst, **more)
        assert call("abcfx_cuda_row_sums", args, self.counts, self.row_sum, form=form) == OK
        return call("abcfx_cuda_bgemm", args, form=form)


@pytest.mark.parametrize(
    ("case", "kernel"),
    [*((case, kernel) for case in CASES for kernel in (LARGE, SMALL)), *((case, GEMV) for case in CASES[3:])],
    ids=str,
)
def test_exact(case: Case, kernel: int) -> None:
    cuda = Cuda(case)
    dst = Guarded(cuda.problem.rows, case.groups * case.cols, dtype=torch.float32).tensor
    assert cuda.run(dst, kernel=kernel) == OK
    assert torch.equal(dst.double(), cuda.problem.expected())


FEW = [  # rows x planes: each number of pairs that a warp keeps, ends of channels, and a window of several taps
    Case(64, 1, 1, cols=9, size=(1, 1)), Case(4160, 3, 1, cols=5, size=(1, 2)), Case(640, 2, 2, cols=17, size=(1, 2)),
    Case(100, 2, 3, cols=11, size=(1, 1)), Case(129, 2, 7, cols=3, size=(1, 1)), Case(8192, 1, 2, cols=2, size=(1, 3)),
    Case(128, 2, 2, kernel=(3, 3), size=(3, 3), images=2, groups=2),
]  # fmt: skip


@pytest.mark.parametrize("case", FEW, ids=str)
def test_few_rows_stream_the_weights_on_devices_without_bit_units_too(case: Case) -> None:
    cuda = Cuda(case)
    dst = Guarded(cuda.problem.rows, case.groups * case.cols, dtype=torch.float32).tensor
    with device(major=10):
        assert cuda.run(dst) == OK
    assert torch.equal(dst.double(), cuda.problem.expected())


def test_more_rows_need_bit_units() -> None:
    cuda = Cuda(CASES[0])
    dst = Guarded(cuda.problem.rows, CASES[0].cols, dtype=torch.float32)
    with device(major=10):
        assert cuda.run(dst.tensor) == NO_BIT_UNITS
    assert dst.untouched().all()


@pytest.mark.parametrize("kernel", [0, GEMV])
@pytest.mark.parametrize("case", [CASES[2], CASES[8]], ids=str)
def test_the_xor_form_of_sm_75(case: Case, kernel: int) -> None:
    cuda = Cuda(case)
    dst = Guarded(cuda.problem.rows, case.cols, dtype=torch.float32).tensor
    assert cuda.run(dst, "xor", kernel=kernel) == OK
    assert torch.equal(dst.double(), cuda.problem.expected())


@pytest.mark.parametrize(("dtype", "number"), [(torch.float32, 0), (torch.bfloat16, 1), (torch.float16, 2)], ids=str)
def test_affine_clip_and_output_types(dtype: torch.dtype, number: int) -> None:
    cuda = Cuda(CASES[3])
    channels = CASES[3].cols
    gain, offset = torch.randint(-2, 3, (channels,)).float(), torch.randint(-9, 10, (channels,)).float()
    offset[1] = torch.nan  # must not become a number by the clip
    dst = Guarded(cuda.problem.rows, channels, dtype=dtype).tensor
    pointers = {"gain": gain.data_ptr(), "offset": offset.data_ptr()}
    assert cuda.run(dst, dst_type=number, low=0.0, high=700.0, **pointers) == OK
    wanted = (cuda.problem.expected() * gain + offset).clamp(0, 700)
    assert torch.equal(dst.nan_to_num(-1), wanted.float().to(dtype).nan_to_num(-1))
    assert dst[:, 1].isnan().all()
    assert 0 < wanted.float().count_nonzero() < wanted.numel()


@pytest.mark.parametrize(
    ("field", "value", "status"),
    [
        ("weight_bases", 9, BAD_SHAPE), ("activation_bases", 0, BAD_SHAPE), ("groups", 0, BAD_SHAPE),
        ("kernel_w", 2, BAD_SHAPE), ("dst_type", 3, BAD_SHAPE), ("words", 2**17, UNSUPPORTED),
    ],
)  # fmt: skip
def test_what_is_refused(field: str, value: int, status: int) -> None:
    cuda = Cuda(CASES[0])
    dst = Guarded(cuda.problem.rows, CASES[0].cols, dtype=torch.float32)
    assert call("abcfx_cuda_bgemm", cuda.args(dst.tensor, **{field: value})) == status
    assert dst.untouched().all()
