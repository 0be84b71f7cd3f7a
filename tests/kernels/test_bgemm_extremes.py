"""Counters at their limits: random bits differ in half of the places, and never fill a narrow counter."""

from __future__ import annotations

import pytest
import torch
from kernel_abi import BGEMM, OK, VARIANTS, Guarded, variant
from test_bgemm import Case, Problem

CASES = [  # channels are multiples of 64: no tail bits
    *(Case(64 * words, 1, 1, size=(1, 7)) for words in (1, 2, 15, 16, 30, 31, 32, 33, 62, 63, 64, 255, 256, 257, 600)),
    Case(128, 2, 2, kernel=(5, 7), size=(6, 9)),
    Case(64, 2, 3, kernel=(3, 3), groups=2, cols=9, size=(5, 6), dilation=(1, 2)),
]


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("differ", [False, True])
def test_all_bits_differ_or_none(differ: bool, name: str, case: Case) -> None:
    kernel, problem = variant("bgemm", name), Problem(case)
    problem.a_bits.fill_(-1 if differ else 0)
    problem.w_bits.fill_(0)
    problem.dots.fill_(-problem.depth if differ else problem.depth)
    dst = Guarded(problem.rows, case.groups * case.cols, dtype=torch.float32)
    args: BGEMM = problem.args(dst.tensor)
    assert kernel(args) == OK
    assert torch.equal(dst.tensor.double(), problem.expected())
