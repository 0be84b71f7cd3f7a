"""Every variant of bgemm/kernels.inc, integer-exact: α, β and base are small integers, so every f32 sum is exact."""

from __future__ import annotations

import ctypes
import zlib
from dataclasses import dataclass
from functools import cache

import emulation
import pytest
import torch
from kernel_abi import BAD_SHAPE, BGEMM, EMULATED, FORCED, OK, RUNNABLE, Guarded, call, fenced, variant
from torch import Tensor
from torch.nn.functional import conv2d, pad

from abcfx.ops.kernel_weights import pack_weights
from abcfx.quant import bits

ALL = (*RUNNABLE, *FORCED)


@dataclass(frozen=True)
class Case:
    channels: int  # of one group
    m: int
    n: int
    cols: int = 11  # of one group
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
    images: int = 1
    size: tuple[int, int] = (1, 17)  # padded


CASES = [
    *(
        Case(channels, m, n)
        for channels, m, n in [(1, 1, 1), (3, 2, 1), (63, 1, 2), (64, 2, 2), (65, 3, 3), (127, 4, 4)]
    ),
    *(
        Case(200, m, n, cols=37)
        for m, n in [(1, 1), (1, 3), (1, 4), (2, 3), (2, 4), (3, 1), (3, 2), (3, 4), (4, 1), (4, 2)]
    ),
    *(Case(70, m, n) for m, n in [(4, 3), (5, 3), (3, 5), (8, 8), (1, 8), (8, 1), (6, 7)]),
    *(
        Case(64, 1, 1, cols=cols, size=(1, rows))
        for cols, rows in [(1, 1), (8, 1), (9, 2), (33, 25), (40, 97), (64, 200)]
    ),
    *(Case(64, 2, 3, cols=24, size=(1, rows)) for rows in (1, 2, 3, 5, 12, 13)),
    *(Case(64, 2, 2, kernel=(k, k), size=(9, 10), images=2) for k in (3, 5, 7)),
    Case(3, 2, 2, kernel=(3, 3), stride=(2, 1), size=(9, 8), images=2),
    Case(65, 2, 2, kernel=(3, 2), stride=(2, 3), dilation=(2, 1), size=(9, 12)),
    Case(64, 1, 2, kernel=(3, 3), dilation=(1, 2), size=(7, 9), images=3),
    Case(127, 3, 1, kernel=(1, 3), groups=2, cols=9, size=(4, 9)),
    Case(16, 2, 2, kernel=(3, 3), groups=3, cols=4, size=(6, 7), dilation=(2, 2), stride=(1, 2)),
    Case(1, 2, 2, kernel=(3, 3), groups=10, cols=1, size=(5, 5)),
    Case(1600, 1, 1, kernel=(5, 5), cols=8, size=(5, 6)),  # 625 words: the byte counters of AVX2 flush many times
]
# windows of ten words and more, pairs of words that run across taps, tiles of 12, 6, 4 and 3 rows and their remainders
LONG = [
    *(Case(5000, m, n, cols=19, size=(1, rows)) for m, n, rows in [(1, 1, 25), (2, 2, 18), (4, 3, 9), (3, 4, 8)]),
    *(Case(channels, 2, 2, cols=72, size=(1, 14)) for channels in (577, 640, 641, 1000, 1024, 4999)),
    *(Case(640, 1, n, cols=72, size=(1, 110)) for n in (1, 2, 3, 4)),
    *(Case(700, 3, n, cols=40, size=(1, rows)) for n, rows in [(1, 7), (2, 5), (3, 3), (4, 5), (5, 13), (8, 4)]),
    Case(700, 5, 1, cols=40, size=(1, 29)),
    Case(704, 8, 7, cols=24, size=(1, 13)),
    Case(128, 2, 2, cols=70, kernel=(3, 3), size=(9, 10), images=2),
    Case(130, 1, 3, cols=70, kernel=(3, 3), size=(9, 10), stride=(2, 1), dilation=(1, 3)),
    Case(65, 2, 1, cols=70, kernel=(5, 3), size=(11, 12), stride=(1, 2), dilation=(2, 2), images=2),
    Case(64, 2, 3, cols=70, kernel=(7, 7), size=(9, 12), dilation=(1, 1)),
    Case(300, 2, 2, cols=21, kernel=(3, 3), groups=3, size=(6, 7)),
    Case(129, 1, 4, cols=5, kernel=(2, 5), groups=2, size=(6, 11), dilation=(3, 1), images=2),
    Case(44000, 1, 1, cols=8, size=(1, 13)),  # 688 words: longer than a panel
]


class Problem:
    """Random operands of a case, and the exact result from float64 convolutions of the ±1 planes."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(zlib.crc32(repr(case).encode()))
        self.case = case
        g, c, o, (kh, kw) = case.groups, case.channels, case.groups * case.cols, case.kernel
        self.a = torch.randint(0, 2, (case.n, case.images, g * c, *case.size)).double() * 2 - 1
        self.w = torch.randint(0, 2, (case.m, o, c, kh, kw)).double() * 2 - 1
        by_group = self.w.view(case.m, g, case.cols, c, kh, kw).transpose(0, 1).flatten(0, 2)
        dots = conv2d(self.a.flatten(0, 1), by_group, None, case.stride, 0, case.dilation, g)
        dots = dots.view(case.n, case.images, g, case.m, case.cols, *dots.shape[2:])
        self.dots = dots.permute(0, 3, 1, 5, 6, 2, 4).flatten(-2).long()  # [n, m, images, oh, ow, o]
        self.out = self.dots.shape[3:5]
        self.rows = case.images * self.out[0] * self.out[1]
        self.depth = kh * kw * c
        self.alpha = torch.randint(-3, 4, (case.m, o)).float()
        self.beta = torch.randint(1, 5, (case.n,)).float()
        self.class_h = torch.randint(0, 2, (self.out[0],), dtype=torch.int32)
        self.class_w = torch.randint(0, 3, (self.out[1],), dtype=torch.int32)
        self.base = torch.randint(-9, 10, (6, o)).float()

        grouped = self.a.view(case.n, case.images, g, c, *case.size).permute(1, 4, 0, 5, 2, 3)
        self.a_bits = fenced(bits.pack(grouped).contiguous())
        tap_major = self.w.permute(0, 1, 3, 4, 2).reshape(case.m, o, kh * kw, c).to(torch.int8)
        self.w_bits = fenced(pack_weights(tap_major, g))
        self.blocks = g * self.w_bits.shape[1]

    def expected(self) -> Tensor:
        exact = torch.einsum("n,mo,nmihwo->ihwo", self.beta.double(), self.alpha.double(), self.dots.double())
        classes = self.class_h.long()[:, None] * 3 + self.class_w.long()
        return (exact + self.base.double()[classes]).reshape(self.rows, -1)

    def args(self, dst: Tensor) -> BGEMM:
        case = self.case
        pointers = {
            "a": self.a_bits, "w": self.w_bits, "alpha": self.alpha, "beta": self.beta, "base": self.base, "dst": dst,
            "class_h": self.class_h, "class_w": self.class_w,
        }  # fmt: skip
        pairs = {"padded": case.size, "out": self.out, "kernel": case.kernel, "stride": case.stride}
        pairs["dilation"] = case.dilation
        return BGEMM(
            **{name: tensor.data_ptr() for name, tensor in pointers.items()},
            **{f"{name}_{axis}": pair[i] for name, pair in pairs.items() for i, axis in enumerate("hw")},
            classes_w=3, weight_bases=case.m, activation_bases=case.n, images=case.images, groups=case.groups,
            words=bits.words_for(case.channels), depth=self.depth, cols=case.cols,
            row_end=self.rows, block_end=self.blocks,
        )  # fmt: skip


shared = cache(Problem)


@pytest.mark.parametrize("case", [*CASES, *LONG], ids=str)
@pytest.mark.parametrize("name", ALL)
def test_exact(name: str, case: Case) -> None:
    kernel, problem = variant("bgemm", name), shared(case)
    dst = Guarded(problem.rows, case.groups * case.cols, dtype=torch.float32)
    assert kernel(problem.args(dst.tensor)) == OK
    assert torch.equal(dst.tensor.double(), problem.expected())
    assert dst.walls_intact()


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("case", "rows", "blocks"),
    [
        (Case(64, 2, 2, cols=37, size=(1, 60)), (7, 41), (1, 4)),
        (Case(130, 1, 1, cols=80, size=(1, 230)), (100, 229), (3, 10)),
        (Case(20, 2, 2, kernel=(3, 3), groups=3, cols=12, size=(9, 9), images=2), (11, 60), (1, 5)),
        (Case(64, 5, 5, cols=20, size=(1, 9)), (3, 4), (2, 3)),
        (Case(1000, 2, 5, cols=75, size=(1, 130)), (3, 121), (1, 10)),
        (Case(200, 2, 3, kernel=(3, 3), groups=3, cols=37, size=(9, 9), images=2), (11, 60), (3, 14)),
        (Case(64, 2, 2), (5, 5), (0, 2)),
        (Case(64, 2, 2), (0, 17), (1, 1)),
    ],
    ids=str,
)
def test_part_of_the_output(name: str, case: Case, rows: tuple[int, int], blocks: tuple[int, int]) -> None:
    kernel, problem = variant("bgemm", name), Problem(case)
    dst = Guarded(problem.rows, case.groups * case.cols, dtype=torch.float32)
    args = problem.args(dst.tensor)
    args.row_begin, args.row_end = rows
    args.block_begin, args.block_end = blocks
    assert kernel(args) == OK
    per_group = problem.blocks // case.groups
    block_of = torch.arange(case.groups)[:, None] * per_group + torch.arange(case.cols) // 8
    wanted = (block_of.flatten() >= blocks[0]) & (block_of.flatten() < blocks[1])
    inside = torch.zeros(problem.rows, len(wanted), dtype=torch.bool)
    inside[rows[0] : rows[1]] = wanted
    assert torch.equal(dst.tensor.double()[inside], problem.expected()[inside])
    assert dst.untouched()[~inside].all()
    assert dst.walls_intact()


@pytest.mark.parametrize("case", LONG, ids=str)
def test_floats_of_the_emulated_kernels_do_not_depend_on_the_kernel_or_the_part(case: Case) -> None:
    """Real scales: the AVX-512 kernels add in the same order, so their results are equal bit for bit, in parts too."""
    problem = Problem(case)
    problem.alpha, problem.beta, problem.base = (
        torch.randn_like(t) for t in (problem.alpha, problem.beta, problem.base)
    )
    results = []
    for name in (EMULATED, *FORCED):
        dst = torch.empty(problem.rows, case.groups * case.cols)
        assert variant("bgemm", name)(problem.args(dst)) == OK
        results.append(dst)
    parts = torch.empty(problem.rows, case.groups * case.cols)
    for begin in range(0, problem.rows, 5):
        args = problem.args(parts)
        args.row_begin, args.row_end = begin, min(begin + 5, problem.rows)
        assert variant("bgemm", EMULATED)(args) == OK
    for other in (*results[1:], parts):
        assert torch.equal(results[0].view(torch.int32), other.view(torch.int32))
    exact = (
        torch.einsum("n,mo,nmihwo->ihwo", *(t.double() for t in (problem.beta, problem.alpha, problem.dots)))
        + problem.base.double()[problem.class_h.long()[:, None] * 3 + problem.class_w.long()]
    )
    # at most 8 * 8 + 8 + 1 additions of terms below 5 * 5 * depth, rounded to 24 bits: one unit each
    bound = 73 * 25 * case.channels * case.kernel[0] * case.kernel[1] * 2.0**-24
    assert (results[0].double() - exact.reshape(problem.rows, -1)).abs().max() < bound


@pytest.mark.parametrize(
    ("words", "n", "cols", "rows", "wanted"),
    [
        (9, 1, 4096, 96, 0),  # 576 bits, a 3x3 window of 64 channels: basic, however many columns share the panel
        (10, 1, 512, 96, 96),
        (10, 1, 256, 96, 0),
        (16, 1, 1024, 96, 96),
        (18, 2, 128, 96, 96),
        (72, 4, 512, 49, 48),  # 16 tiles of three rows, and one row left
        (72, 4, 512, 50, 50),  # two rows fill more than half a tile
        (72, 1, 512, 5, 0),  # five rows of twelve do not
        (72, 1, 32, 96, 0),  # four columns do not pay for the panel
        (682, 1, 512, 96, 96),
        (683, 1, 512, 96, 0),  # longer than the panel
    ],
)
def test_which_of_the_emulated_kernels_runs(words: int, n: int, cols: int, rows: int, wanted: int) -> None:
    beta = torch.ones(n)
    args = BGEMM(
        weight_bases=1, activation_bases=n, images=1, padded_h=1, padded_w=rows, out_h=1, out_w=rows, kernel_h=1,
        kernel_w=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1, groups=1, words=words, depth=64 * words,
        cols=cols, row_end=rows, block_end=-(-cols // 8), beta=beta.data_ptr(),
    )  # fmt: skip
    chosen = emulation.kernels().abcfx_bgemm_avx512vpopcnt_carrysave_rows
    chosen.restype = ctypes.c_int64
    assert chosen(ctypes.byref(args), ctypes.c_int64(rows)) == wanted


@pytest.mark.parametrize("case", [*CASES[::3], *LONG[::3]], ids=str)
def test_popcounts_of_the_reference(case: Case) -> None:
    variant("bgemm", "reference")
    problem = Problem(case)
    counts = Guarded(problem.rows, case.n, case.m, case.groups * case.cols, dtype=torch.int32).tensor
    assert call("abcfx_bgemm_popcounts_reference", problem.args(torch.empty(0)), counts) == OK
    dots = problem.dots.flatten(2, 4).permute(2, 0, 1, 3)
    assert torch.equal(problem.depth - 2 * counts.long(), dots)


@pytest.mark.parametrize("name", ALL)
def test_one_class_needs_no_tables(name: str) -> None:
    kernel, problem = variant("bgemm", name), Problem(Case(65, 2, 2))
    problem.class_h.zero_()
    problem.class_w.zero_()
    dst = Guarded(problem.rows, 11, dtype=torch.float32).tensor
    args = problem.args(dst)
    args.class_h = args.class_w = None
    assert kernel(args) == OK
    assert torch.equal(dst.double(), problem.expected())


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_bases", 9), ("weight_bases", 0), ("activation_bases", 9), ("groups", 0), ("row_end", 18),
        ("row_begin", -1), ("block_end", 3), ("kernel_w", 2), ("kernel_h", 0), ("stride_w", 2), ("depth", -1),
    ],
)  # fmt: skip
def test_bad_shapes_are_refused(name: str, field: str, value: int) -> None:
    kernel, problem = variant("bgemm", name), Problem(Case(64, 2, 2))
    dst = Guarded(problem.rows, 11, dtype=torch.float32)
    args = problem.args(dst.tensor)
    setattr(args, field, value)
    assert kernel(args) == BAD_SHAPE
    assert dst.untouched().all()


def test_fenced_copies_keep_values_and_strides() -> None:
    tensor = pad(torch.randn(3, 4), (0, 5))[:, 1:3].T
    copy = fenced(tensor)
    assert torch.equal(copy, tensor)
    assert copy.stride() == tensor.stride()
