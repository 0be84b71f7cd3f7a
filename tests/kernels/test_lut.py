"""Every variant of lut/kernels.inc, integer-exact on the problems of test_bgemm.py, and its packed weights."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import pytest
import torch
from kernel_abi import BAD_SHAPE, BGEMM, INT64, OK, Guarded, P, call, fenced, handle, structure, variant
from test_bgemm import CASES, Case, Problem
from torch import Tensor

from abcfx.ops.kernel_weights import pack_weights, weight_signs

VARIANTS = ("amx", "avx512bw", "avx2", "reference", "avx512bw emulated", "amx emulated")
LUT = structure("abcfx_lut_args", "product w channels scratch", {"product": BGEMM, "w": P, "scratch": P})
LUT_PACK = structure(
    "abcfx_lut_pack_args",
    "src dst bases groups cols taps channels lanes block_begin block_end stride_p stride_o stride_t stride_c",
    {"src": P, "dst": P},
)
MORE = [
    Case(600, 2, 3, kernel=(3, 3), cols=40, size=(6, 7)),  # two chunks of channels
    Case(1300, 1, 4, cols=70, size=(1, 9)),
    Case(24, 2, 2, kernel=(15, 15), cols=5, size=(16, 17)),  # tables of few channels at a time
    Case(40, 1, 2, kernel=(3, 3), dilation=(12, 12), cols=33, size=(27, 26)),  # one output needs a large region
    Case(130, 3, 2, cols=96, kernel=(3, 3), size=(5, 30), images=2),
    Case(64, 2, 2, cols=16, kernel=(1, 1), stride=(2, 2), size=(9, 9), images=2),
    Case(16, 2, 2, cols=16, kernel=(3, 3), size=(60, 60)),  # several strips
    Case(4096, 1, 5, cols=8, size=(1, 3)),
    Case(64, 2, 2, cols=40, size=(7, 7), kernel=(3, 3), images=9),  # several images share a batch of tiles
    Case(8, 1, 6, kernel=(3, 1), stride=(2, 1), size=(300, 1), images=2),  # more lines of a pixel than tiles
    Case(16, 1, 7, size=(1, 1100)),
    Case(80, 2, 8, cols=64, kernel=(3, 3), stride=(2, 2), size=(33, 35)),
    Case(3000, 3, 2, cols=20, size=(1, 50)),  # more steps than a chunk
    *(Case(48, m, 2, cols=16, kernel=(3, 3), size=(6, 9)) for m in (1, 2, 3, 4)),
    Case(16, 3, 3, cols=32, kernel=(3, 3), groups=2, size=(6, 9)),
]


class Lookup:
    """A problem with its weights in the layout of `lanes`; one digit if `coded`, of weights if `weights`."""

    def __init__(self, case: Case, name: str, coded: bool, weights: bool = False) -> None:
        self.problem, self.case = Problem(case), case
        if coded:
            self.problem.beta = 2.0 ** torch.arange(case.n) * 0.5
        if weights:
            self.problem.alpha = 2.0 ** torch.arange(case.m)[:, None] * self.problem.alpha[:1]
        lanes = self.lanes = lut_lanes(name)
        p, (kh, kw) = self.problem, case.kernel
        tap_major = p.w.permute(0, 1, 3, 4, 2).reshape(case.m, -1, kh * kw, case.channels).to(torch.int8)
        self.w = fenced(pack_weights(tap_major, case.groups, lanes))
        self.blocks = case.groups * self.w.shape[1]

    def args(self, dst: Tensor) -> LUT:
        product = self.problem.args(dst)
        product.w, product.block_end = None, self.blocks
        args = LUT(product=product, w=self.w.data_ptr(), channels=self.case.channels)
        size = handle().abcfx_lut_scratch_bytes
        size.restype = INT64
        self.scratch = torch.zeros(size(ctypes.byref(args)) + 64 + Guarded.WALL, dtype=torch.uint8)
        self.offset = -self.scratch.data_ptr() % 64
        self.scratch[len(self.scratch) - Guarded.WALL + self.offset :] = 0x5A
        args.scratch = self.scratch.data_ptr() + self.offset
        return args

    def scratch_intact(self) -> bool:
        return bool((self.scratch[len(self.scratch) - Guarded.WALL + self.offset :] == 0x5A).all())


def lut_lanes(name: str) -> int:
    variant("lut", name)
    if name.endswith(" emulated"):
        return 64  # the library says 0 where the CPU lacks the instructions
    return handle().abcfx_lut_lanes(name.encode())


@pytest.fixture(params=VARIANTS)
def name(request: pytest.FixtureRequest) -> Iterator[str]:
    variant("lut", request.param)
    return request.param


@pytest.mark.parametrize(
    ("coded", "weights"), [(True, False), (False, False), (True, True)], ids=["one digit", "any beta", "coded weights"]
)
@pytest.mark.parametrize("case", [*CASES, *MORE], ids=str)
def test_exact(name: str, case: Case, coded: bool, weights: bool) -> None:
    lookup = Lookup(case, name, coded, weights)
    dst = Guarded(lookup.problem.rows, case.groups * case.cols, dtype=torch.float32)
    assert variant("lut", name)(lookup.args(dst.tensor)) == OK
    assert torch.equal(dst.tensor.double(), lookup.problem.expected())
    assert dst.walls_intact()
    assert lookup.scratch_intact()


@pytest.mark.parametrize("m", [2, 6, 7, 8])
def test_the_largest_products_of_codes(name: str, m: int) -> None:
    """±(2^m - 1) by ±127 over 9,000 channels: digits that are signed bytes still, and 32-bit sums."""
    lookup = Lookup(Case(9000, m, 7, cols=24, size=(1, 40)), name, coded=True, weights=True)
    problem = lookup.problem
    problem.a_bits.fill_(0)
    signs = torch.ones(m, 24, 1, 9000, dtype=torch.int8)
    signs[:, ::2] = -1
    lookup.w = fenced(pack_weights(signs, 1, lookup.lanes))
    problem.alpha[0] = 3.0
    problem.alpha[:] = 2.0 ** torch.arange(m)[:, None] * problem.alpha[:1]
    problem.dots.copy_(torch.where(torch.arange(24) % 2 == 0, -9000, 9000))
    dst = Guarded(problem.rows, 24, dtype=torch.float32)
    assert variant("lut", name)(lookup.args(dst.tensor)) == OK
    torch.testing.assert_close(dst.tensor.double(), problem.expected(), rtol=1e-6, atol=0)


# Depths that fill a byte, then a 16-bit sum: random bits never do.
EXTREMES = [
    *(Case(channels, 1, n, cols=8, size=(1, 7)) for channels in (64, 520, 2114, 4369, 4608) for n in range(1, 9)),
    *(Case(512, 1, n, kernel=(3, 3), cols=8, size=(3, 9)) for n in range(1, 9)),
]


@pytest.mark.parametrize("weight", [0, 1], ids=["every T is 4 L", "every T is 0"])
@pytest.mark.parametrize("case", EXTREMES, ids=str)
def test_the_largest_and_the_smallest_sums(name: str, case: Case, weight: int) -> None:
    """Clear bits of the activations are the code L; a set bit of the weights makes it L - L = 0."""
    lookup = Lookup(case, name, coded=True)
    problem = lookup.problem
    problem.a_bits.fill_(0)
    signs = torch.full((1, case.cols, case.kernel[0] * case.kernel[1], case.channels), 1 - 2 * weight, dtype=torch.int8)
    lookup.w = fenced(pack_weights(signs, 1, lookup.lanes))
    problem.dots.fill_(-problem.depth if weight else problem.depth)
    dst = Guarded(problem.rows, case.cols, dtype=torch.float32)
    assert variant("lut", name)(lookup.args(dst.tensor)) == OK
    assert torch.equal(dst.tensor.double(), problem.expected())


@pytest.mark.parametrize(
    ("case", "rows", "blocks"),
    [
        (Case(64, 2, 2, cols=97, size=(1, 60)), (7, 41), (1, 2)),
        (Case(130, 1, 1, cols=180, size=(1, 230)), (100, 229), (1, 2)),
        (Case(20, 2, 2, kernel=(3, 3), groups=3, cols=12, size=(9, 9), images=2), (11, 60), (1, 3)),
        (Case(64, 2, 2), (5, 5), (0, 1)),
        (Case(64, 2, 2), (0, 17), (1, 1)),
    ],
    ids=str,
)
def test_part_of_the_output(name: str, case: Case, rows: tuple[int, int], blocks: tuple[int, int]) -> None:
    lookup = Lookup(case, name, coded=True)
    dst = Guarded(lookup.problem.rows, case.groups * case.cols, dtype=torch.float32)
    args = lookup.args(dst.tensor)
    args.product.row_begin, args.product.row_end = rows
    args.product.block_begin, args.product.block_end = blocks
    assert variant("lut", name)(args) == OK
    per_group = lookup.blocks // case.groups
    block_of = (torch.arange(case.groups)[:, None] * per_group + torch.arange(case.cols) // lookup.lanes).flatten()
    inside = torch.zeros(lookup.problem.rows, len(block_of), dtype=torch.bool)
    inside[rows[0] : rows[1]] = (block_of >= blocks[0]) & (block_of < blocks[1])
    assert torch.equal(dst.tensor.double()[inside], lookup.problem.expected()[inside])
    assert dst.untouched()[~inside].all()
    assert dst.walls_intact()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("weight_bases", 9), ("activation_bases", 0), ("groups", 0), ("row_end", 18), ("row_begin", -1),
        ("block_end", 2), ("kernel_w", 2), ("kernel_h", 0), ("words", 2), ("channels", 65),
    ],
)  # fmt: skip
def test_bad_shapes_are_refused(name: str, field: str, value: int) -> None:
    lookup = Lookup(Case(64, 2, 2), name, coded=True)
    dst = Guarded(lookup.problem.rows, 11, dtype=torch.float32)
    args = lookup.args(dst.tensor)
    setattr(args if field == "channels" else args.product, field, value)
    assert variant("lut", name)(args) == BAD_SHAPE
    assert dst.untouched().all()


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 2, 1), (1, 2, 3, 0)], ids=["channels", "outputs", "neither"])
@pytest.mark.parametrize("lanes", [32, 64])
@pytest.mark.parametrize(
    ("m", "outputs", "taps", "channels", "groups"),
    [(1, 1, 1, 1, 1), (3, 70, 9, 21, 1), (2, 66, 4, 64, 3), (3, 16, 9, 16, 1), (5, 60, 2, 9, 2)],
)
def test_packed_weights_equal_the_reference(
    m: int, outputs: int, taps: int, channels: int, groups: int, lanes: int, order: tuple[int, ...]
) -> None:
    """Whatever lies side by side in memory: channels of an output, outputs of a channel, or neither."""
    variant("lut", "reference")
    sizes = (m, outputs, taps, channels)
    stored = torch.randint(0, 2, tuple(sizes[axis] for axis in order), dtype=torch.int8) * 2 - 1
    bases = stored.permute([order.index(axis) for axis in range(4)])
    wanted = pack_weights(bases, groups, lanes)
    dst = Guarded(wanted.numel() // 8, dtype=torch.int64)  # whole words: lanes is a multiple of 8
    src = fenced(stored)
    strides = dict(zip(("stride_p", "stride_o", "stride_t", "stride_c"), bases.stride(), strict=True))
    args = LUT_PACK(
        src=src.data_ptr(), dst=dst.tensor.data_ptr(), bases=m, groups=groups, cols=outputs // groups, taps=taps,
        channels=channels, lanes=lanes, block_end=groups * wanted.shape[1], **strides,
    )  # fmt: skip
    assert call("abcfx_lut_pack", args) == OK
    assert torch.equal(dst.tensor.view(torch.uint8).view_as(wanted), wanted)
    assert dst.walls_intact()
    signs = weight_signs(wanted, m, outputs // groups, taps, channels).reshape(m, outputs, taps, channels)
    assert torch.equal(signs, bases.float())
    args.lanes = 16
    assert call("abcfx_lut_pack", args) == BAD_SHAPE
