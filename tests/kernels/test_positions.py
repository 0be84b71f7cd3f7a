"""Every variant of positions/kernels.inc, bit for bit against the reference in plain torch, in every weight layout."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from math import prod

import pytest
import torch
from kernel_abi import BAD_SHAPE, INT64, OK, Guarded, P, fenced, handle, structure, variant

from abcfx.ops.kernel_positions import pack_positions
from abcfx.quant import bits

VARIANTS = ("avx2", "portable")
POSITIONS = structure(
    "abcfx_positions_args",
    "src dst counts scratch images padded_h padded_w planes channels kernel_h kernel_w stride_h stride_w "
    "dilation_h dilation_w out_h out_w lanes group_begin group_end",
    dict.fromkeys("src dst counts scratch".split(), P),
)


@dataclass(frozen=True)
class Case:
    channels: int
    planes: int
    kernel: tuple[int, int] = (1, 1)
    size: tuple[int, int] = (1, 77)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    images: int = 1

    def out(self) -> list[int]:
        parts = zip(self.size, self.kernel, self.stride, self.dilation, strict=True)
        return [(size - dilation * (taps - 1) - 1) // stride + 1 for size, taps, stride, dilation in parts]


CASES = [
    Case(1, 1), Case(64, 2, size=(1, 64)), Case(5, 3, (3, 3), (9, 8), images=3), Case(16, 2, size=(8, 16)),
    Case(32, 1, (1, 3), (8, 18), images=2), Case(70, 2, (3, 2), (12, 17), stride=(2, 3), images=2),
    Case(130, 8, (2, 3), (9, 14), (1, 2), (3, 2)), Case(3, 5, (2, 2), (3, 3)),
]  # fmt: skip


class Problem:
    def __init__(self, case: Case, lanes: int) -> None:
        values = torch.randn(case.images, case.size[0], case.planes, case.size[1], case.channels)
        self.src = fenced(bits.pack(values))
        self.wanted, self.counts = pack_positions(
            self.src, case.channels, case.kernel, case.stride, case.dilation, case.out(), lanes
        )
        self.size = self.wanted.numel() * self.wanted.itemsize
        self.dst = Guarded(self.size // 8, dtype=torch.int64)
        self.found = Guarded(*self.counts.shape, dtype=torch.int32)
        self.found.tensor.zero_()
        pairs = dict(kernel=case.kernel, stride=case.stride, dilation=case.dilation, out=case.out())
        self.args = POSITIONS(
            src=self.src.data_ptr(), dst=self.dst.tensor.data_ptr(), counts=self.found.tensor.data_ptr(), lanes=lanes,
            images=case.images, padded_h=case.size[0], padded_w=case.size[1], planes=case.planes,
            channels=case.channels, group_end=-(-case.images * prod(case.out()) // 64),
            **{f"{name}_{axis}": value for name, pair in pairs.items() for axis, value in zip("hw", pair, strict=True)},
        )  # fmt: skip
        room = handle().abcfx_positions_scratch_bytes
        room.restype = INT64
        self.scratch = Guarded(room(ctypes.byref(self.args)) // 8, dtype=torch.int64)
        self.args.scratch = self.scratch.tensor.data_ptr()

    def exact(self) -> bool:
        got = self.dst.tensor.view(torch.uint8)
        return torch.equal(got, self.wanted.flatten().view(torch.uint8)) and torch.equal(self.found.tensor, self.counts)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("lanes", [8, 32, 64])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_exact(name: str, lanes: int, case: Case) -> None:
    problem = Problem(case, lanes)
    assert variant("positions", name)(problem.args) == OK
    assert problem.exact()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("lanes", [8, 32])
def test_groups_are_made_one_by_one(name: str, lanes: int) -> None:
    problem = Problem(CASES[2], lanes)
    groups = problem.args.group_end
    assert groups > 1
    for group in reversed(range(groups)):
        problem.args.group_begin, problem.args.group_end = group, group + 1
        assert variant("positions", name)(problem.args) == OK
    assert problem.exact()


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize(
    ("field", "value"), [("planes", 9), ("lanes", 16), ("out_h", 8), ("kernel_w", 0), ("group_end", 4)]
)
def test_bad_arguments_are_refused(name: str, field: str, value: int) -> None:
    problem = Problem(CASES[2], 32)
    setattr(problem.args, field, value)
    assert variant("positions", name)(problem.args) == BAD_SHAPE
    assert problem.dst.untouched().all()
