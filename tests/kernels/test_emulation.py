"""The emulated intrinsics against their documented semantics, written a second time here, on whole vectors in torch.

Where the CPU has AVX-512 the same expectations are checked on the instructions themselves.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from pathlib import Path

import emulation
import pytest
import torch
from kernel_abi import P, fenced
from torch import Tensor

from abcfx.ops import library

NATIVE = [
    *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq", "-mamx-tile", "-mamx-int8"),
    *("-O1", "-Wno-uninitialized"),
]


@pytest.fixture(scope="module", params=["emulated", "native"])
def intrinsics(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if request.param == "native":
        missing = library.variants().get("avx512vpopcnt", "AVX-512") if library.loaded() else "the compiled kernels"
        if missing is not None:
            pytest.skip(f"CPU lacks {missing}")
    flags = NATIVE if request.param == "native" else []
    target = tmp_path_factory.mktemp("semantics") / f"{request.param}.so"
    return emulation.build(target, [Path(emulation.HERE / "emulated" / "semantics.cpp")], *flags)


def apply(lib: ctypes.CDLL, name: str, *operands: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    out = torch.zeros(count, dtype=dtype)
    operands = (*operands, *[torch.zeros(64, dtype=torch.uint8)] * (3 - len(operands)))
    getattr(lib, name)(*(P(t.data_ptr()) for t in (*operands, out)))
    return out


def dwords(*values: int) -> Tensor:
    """Sixteen random dwords that begin with `values`."""
    return torch.cat([torch.tensor(values, dtype=torch.int64).int(), torch.randint(-(2**31), 2**31, (16,)).int()])[:16]


def lanes(t: Tensor) -> Tensor:
    return t.view(4, -1)


def halves(a: Tensor, b: Tensor, upper: bool) -> Tensor:
    each = lanes(a).shape[1] // 2
    part = slice(each, None) if upper else slice(0, each)
    return torch.stack([lanes(a)[:, part], lanes(b)[:, part]], dim=2).flatten()


EDGES = (-1, 0, 1, 254, 255, 256, 65534, 65535, 65536, -(2**31), 2**31 - 1, -32768, 32767)
MOVES: dict[str, tuple[torch.dtype, Callable[[Tensor, Tensor, Tensor], Tensor]]] = {
    "permutexvar_epi32": (torch.int32, lambda a, b, c: b[(a & 15).long()]),
    "permutex2var_epi32": (torch.int32, lambda a, b, c: torch.cat([a, c])[(b & 31).long()]),
    "unpacklo_epi32": (torch.int32, lambda a, b, c: halves(a, b, False)),
    "unpackhi_epi32": (torch.int32, lambda a, b, c: halves(a, b, True)),
    "unpacklo_epi64": (torch.int64, lambda a, b, c: halves(a, b, False)),
    "unpackhi_epi64": (torch.int64, lambda a, b, c: halves(a, b, True)),
    # 0x63 = 01 10 00 11: lanes 3 and 0 of a, then 2 and 1 of b
    "shuffle_i32x4": (torch.int32, lambda a, b, c: torch.cat([lanes(a)[[3, 0]], lanes(b)[[2, 1]]]).flatten()),
    "slli_epi32": (torch.int32, lambda a, b, c: (a.long() << 24).int()),
    "ternary_sum": (torch.int64, lambda a, b, c: a ^ b ^ c),
    "mask_or_epi32": (
        torch.int32,
        lambda a, b, c: torch.where(torch.tensor([0x5A01 >> i & 1 for i in range(16)]).bool(), b | c, a),
    ),
}


@pytest.mark.parametrize("name", MOVES)
def test_bits(intrinsics: ctypes.CDLL, name: str) -> None:
    dtype, expected = MOVES[name]
    a, b, c = (dwords(*EDGES[i:]).view(dtype) for i in range(3))
    assert torch.equal(apply(intrinsics, name, a, b, c, dtype=dtype, count=len(a)), expected(a, b, c))


@pytest.mark.parametrize(
    ("name", "wide", "narrow", "top"),
    [("packus_epi32", torch.int32, torch.uint16, 65535), ("packus_epi16", torch.int16, torch.uint8, 255)],
)
def test_saturating_packs(intrinsics: ctypes.CDLL, name: str, wide: torch.dtype, narrow: torch.dtype, top: int) -> None:
    a, b = dwords(*EDGES).view(wide), dwords(*reversed(EDGES)).view(wide)
    expected = torch.cat([lanes(a), lanes(b)], dim=1).long().clamp(0, top).flatten()
    assert torch.equal(apply(intrinsics, name, a, b, dtype=narrow, count=2 * len(a)).long(), expected)


def test_a_truth_table_is_indexed_by_the_first_operand_first(intrinsics: ctypes.CDLL) -> None:
    """Bit i of every operand is a digit of i, so bit i of the result is bit i of the constant."""
    a, b, c = (torch.full((8,), pattern) for pattern in (0xF0, 0xCC, 0xAA))
    for name, constant in (("ternary_sum", 0x96), ("ternary_carry", 0xD4)):
        result = apply(intrinsics, name, a, b, c, dtype=torch.int64, count=8)
        assert (result & 0xFF).tolist() == [constant] * 8


def test_the_carry_constant_by_brute_force() -> None:
    """With p = x1 ^ w1, t = (x1 ^ x2) ^ (w1 ^ w2) and s = o ^ t: carry(p, o, s) is the majority of p, x2 ^ w2 and o."""
    for x1, x2, w1, w2, ones in itertools.product((0, 1), repeat=5):
        p, q = x1 ^ w1, x2 ^ w2
        s = ones ^ (x1 ^ x2) ^ (w1 ^ w2)
        carry = 0xD4 >> (p << 2 | ones << 1 | s) & 1
        assert p + q + ones == 2 * carry + s


def test_popcnt_and_testn(intrinsics: ctypes.CDLL) -> None:
    words = dwords(-1, -1, 0, 0, 1, -(2**31)).view(torch.int64)
    counts = [bin(word & (2**64 - 1)).count("1") for word in words.tolist()]
    assert apply(intrinsics, "popcnt_epi64", words, dtype=torch.int64, count=8).tolist() == counts
    a, b = (torch.randint(0, 16, (64,), dtype=torch.uint8) for _ in range(2))
    zero = [i for i, both in enumerate((a & b).tolist()) if both == 0 and i >= 4]  # the mask leaves out four
    result = apply(intrinsics, "testn_epi8", a, b, dtype=torch.int64, count=1).item()
    assert [i for i in range(64) if int(result) >> i & 1] == zero


INF, NAN = float("inf"), float("nan")
FLOATS = torch.tensor([0.5, 1.5, 2.5, -0.5, -1.5, 3.49, 1e9, 3e9, -3e9, 2.0**31, -(2.0**31), INF, -INF, NAN, -0.0, 0.0])


def test_rounding_to_integers(intrinsics: ctypes.CDLL) -> None:
    """Ties go to the even integer; what does not fit is the most negative one."""
    low = -(2**31)
    wanted = [0, 2, 2, 0, -2, 3, 10**9, low, low, low, low, low, low, low, 0, 0]
    assert apply(intrinsics, "cvtps_epi32", FLOATS, dtype=torch.int32, count=16).tolist() == wanted


def test_minimum_maximum_and_comparison_with_nan_and_zeros(intrinsics: ctypes.CDLL) -> None:
    """The second operand wins where either is a NaN and where both are zeros; a NaN is not >= anything."""
    x = torch.tensor([NAN, 1.0, NAN, 0.0, -0.0, 2.0, -INF, INF] * 2)
    y = torch.tensor([1.0, NAN, NAN, -0.0, 0.0, 3.0, 5.0, 5.0] * 2)
    for name, wins in (("max_ps", x > y), ("min_ps", x < y)):
        result = apply(intrinsics, name, x, y, dtype=torch.float32, count=16)
        assert torch.equal(result.view(torch.int32), torch.where(wins, x, y).view(torch.int32)), name
    mask = apply(intrinsics, "cmp_ge", x, y, dtype=torch.int16, count=1).item()
    assert [bool(int(mask) >> i & 1) for i in range(16)] == (x >= y).tolist()


def test_conversions_fused_products_and_halves(intrinsics: ctypes.CDLL) -> None:
    large = dwords(*EDGES)
    assert torch.equal(apply(intrinsics, "cvtepi32_ps", large, dtype=torch.float32, count=16), large.float())
    wide = torch.tensor([-1, 0, 2**24 + 1, -(2**40) - 1, 7, 2**53 + 1, -(2**63), 2**63 - 1])
    assert torch.equal(apply(intrinsics, "cvtepi64_ps", wide, dtype=torch.float32, count=8), wide.float())
    x, y, z = torch.full((16,), 1 + 2.0**-12), torch.full((16,), 1 + 2.0**-12), torch.full((16,), -1.0)
    exact = (x.double() * y.double() + z.double()).float()  # 2^-11 + 2^-24: a product rounded first loses the last bit
    assert torch.equal(apply(intrinsics, "fmadd_ps", x, y, z, dtype=torch.float32, count=16), exact)
    x, y = torch.arange(16.0), -torch.arange(16.0)
    assert torch.equal(apply(intrinsics, "halves", x, y, dtype=torch.float32, count=16), torch.cat([x[8:], y[:8]]))


@pytest.mark.parametrize(("count", "kind"), [(8, ctypes.c_uint8), (16, ctypes.c_uint16)])
def test_masks_touch_nothing_else(intrinsics: ctypes.CDLL, count: int, kind: type) -> None:
    """The unmasked floats of the source lie on an unreadable page; those of the target keep their values."""
    values = fenced(torch.randn(count // 2))
    low = (1 << count // 2) - 1
    out = torch.full((16,), 7.0)
    getattr(intrinsics, f"load_{count}")(P(values.data_ptr()), kind(low), P(out.data_ptr()))
    assert torch.equal(out[: count // 2], values)
    assert (out[count // 2 : count] == 0).all()
    source, mask = torch.randn(16), 0b10100101
    getattr(intrinsics, f"store_{count}")(P(source.data_ptr()), kind(mask), P(out.fill_(7.0).data_ptr()))
    written = torch.tensor([mask >> i & 1 for i in range(16)]).bool()
    assert torch.equal(out, torch.where(written, source, torch.tensor(7.0)))


def test_tiles(intrinsics: ctypes.CDLL, request: pytest.FixtureRequest) -> None:
    """Products of signed bytes; rows and bytes past the configured ones are neither read nor written."""
    if "native" in request.node.callspec.id and (missing := library.variants("lut").get("amx", "AMX")) is not None:
        pytest.skip(f"CPU lacks {missing}")
    config = torch.zeros(64, dtype=torch.uint8)
    config[0] = 1  # the palette
    for tile, (rows, row_bytes) in enumerate([(5, 28), (5, 24), (6, 28)]):
        config[16 + 2 * tile], config[48 + tile] = row_bytes, rows
    a, b = (torch.randint(-128, 128, (16, 64), dtype=torch.int8) for _ in range(2))
    a[0], b[:, 0] = -128, -128
    sums = torch.randint(-100, 100, (16, 16), dtype=torch.int32)
    wanted = sums.clone()
    columns = b[:6, :28].view(6, 7, 4).permute(0, 2, 1).reshape(24, 7)
    wanted[:5, :7] += a[:5, :24].int() @ columns.int()
    intrinsics.tile_product(*(P(t.data_ptr()) for t in (config, a, b, sums)))
    assert torch.equal(sums, wanted)
