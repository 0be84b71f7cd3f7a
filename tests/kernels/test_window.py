"""Every variant of window/kernels.inc and adjoint/kernels.inc against the formulas of abcfx/quant/ste.py."""

from __future__ import annotations

import pytest
import torch
from kernel_abi import ADJOINT, BAD_SHAPE, OK, WINDOW, Guarded, call, fenced, variant, variants
from test_pack import DTYPES, LEVELS, special
from torch import Tensor

from abcfx.quant import bits, ste

NAMES = ("avx2", "portable")
COUNTS = [1, 7, 8, 9, 63, 255, 256, 257, 511, 1000, 16383, 16384, 16385, 40000]
CHUNK, BLOCK = 16384, 256


def levels_of(levels: str, planes: int) -> tuple[Tensor, Tensor]:
    """Levels whose ends and thresholds the values below hit exactly."""
    if levels == "coded":
        return torch.tensor([0.25]), torch.tensor([-0.5])
    return torch.rand(planes) + 0.1, torch.randint(-2, 3, (planes,)) / 4


def values_of(count: int, dtype: torch.dtype) -> Tensor:
    """Half of them multiples of 1/8, to hit ties and the ends of windows, the others with residuals of every size."""
    x = torch.randn(count) * 2
    x = torch.where(torch.rand(count) < 0.5, (x * 8).round() / 8, x).to(dtype)
    at = torch.randint(0, count, (10,))
    if count > 10:
        x[at] = special(dtype)
    return fenced(x)


def edges_of(levels: str, planes: int) -> Tensor | None:
    """Windows that meet, overlap and leave gaps; values below hit their edges exactly."""
    low = torch.randint(-12, 9, (planes,)) / 8
    return fenced(torch.stack([low, low + torch.randint(0, 9, (planes,)) / 8])) if levels == "thermometer" else None


def window_args(
    x: Tensor, dst: Tensor, scale: Tensor, shift: Tensor, edges: Tensor | None, levels: str, planes: int
) -> WINDOW:
    pointers = (None if tensor is None else tensor.data_ptr() for tensor in (x, dst, scale, shift, edges))
    kind, blocks = int(levels == "thermometer"), -(-len(x) // BLOCK)
    return WINDOW(*pointers, DTYPES[x.dtype], kind, planes, len(x), 0, blocks)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_windows_are_those_of_the_reference(name: str, count: int, dtype: torch.dtype) -> None:
    kernel, x = variant("window", name), values_of(count, dtype)
    for levels, planes in LEVELS:
        scale, shift = levels_of(levels, planes)
        edges = edges_of(levels, planes)
        wanted = bits.pack_bytes(ste.activation_windows(x, scale, shift, planes, levels, edges))
        dst = Guarded(*wanted.shape, dtype=torch.uint8)
        assert kernel(window_args(x, dst.tensor, scale, shift, edges, levels, planes)) == OK
        assert torch.equal(dst.tensor, wanted), (levels, planes)


@pytest.mark.parametrize("name", NAMES)
def test_f32_next_to_the_ends_of_windows(name: str) -> None:
    """The numbers around every level and midpoint, of steps that are no power of two."""
    kernel = variant("window", name)
    for _ in range(50):
        scale, shift = torch.rand(1) + 0.01, torch.randn(1)
        levels = shift + torch.arange(-1, 9)[:, None] * scale / 2
        x = (levels.view(torch.int32) + torch.arange(-16, 16, dtype=torch.int32)).view(torch.float32).flatten()
        tiles, paper = (ste.thermometer_windows(scale, shift, rule)[0] for rule in ("identity", "abc"))
        for kind, edges in (("coded", None), ("thermometer", tiles), ("thermometer", paper)):
            if edges is not None:  # the numbers around both edges too
                near = edges.view(torch.int32).view(2, 1) + torch.arange(-16, 16, dtype=torch.int32)
                x = torch.cat([x, near.view(torch.float32).flatten()])
            wanted = bits.pack_bytes(ste.activation_windows(x, scale, shift, 1, kind, edges))
            dst = Guarded(*wanted.shape, dtype=torch.uint8)
            assert kernel(window_args(x, dst.tensor, scale, shift, edges, kind, 1)) == OK
            assert torch.equal(dst.tensor, wanted)


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("name", NAMES)
def test_blocks_write_their_own_bytes(name: str, levels: str) -> None:
    """Blocks 1 and 2 of 4: bytes 32 to 95 of every plane."""
    kernel, x = variant("window", name), values_of(900, torch.float32)
    scale, shift = levels_of(levels, 3)
    edges = edges_of(levels, 3)
    wanted = bits.pack_bytes(ste.activation_windows(x, scale, shift, 3, levels, edges))
    dst = Guarded(*wanted.shape, dtype=torch.uint8)
    args = window_args(x, dst.tensor, scale, shift, edges, levels, 3)
    args.block_begin, args.block_end = 1, 3
    assert kernel(args) == OK
    assert torch.equal(dst.tensor[:, 32:96], wanted[:, 32:96])
    assert dst.untouched()[:, :32].all()
    assert dst.untouched()[:, 96:].all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("field", "value"), [("planes", 9), ("levels", 2), ("levels", 1), ("dtype", 3), ("block_end", 5)]
)
def test_bad_windows_are_refused(name: str, field: str, value: int) -> None:
    """Thermometer levels (1) without edges among them."""
    kernel, x = variant("window", name), torch.randn(900)
    dst = Guarded(2, 113, dtype=torch.uint8)
    args = window_args(x, dst.tensor, *levels_of("coded", 2), None, "coded", 2)
    setattr(args, field, value)
    assert kernel(args) == BAD_SHAPE
    assert dst.untouched().all()


def windows_of(count: int, planes: int, levels: str) -> tuple[Tensor, Tensor, Tensor]:
    """Random windows that an input can give (a coded bit says anything), their bytes, and a scale."""
    windows = torch.rand(2 if levels == "coded" else 2 * planes, count) < 0.5
    return windows, fenced(bits.pack_bytes(windows)), torch.rand(1 if levels == "coded" else planes) + 0.1


def adjoint_args(
    grad: Tensor, packed: Tensor, scale: Tensor, dx: Tensor, sums: Tensor, levels: str, planes: int,
    factors: Tensor | None = None, sample: int = 0,
) -> ADJOINT:  # fmt: skip
    pointers = (grad.data_ptr(), packed.data_ptr(), scale.data_ptr(), None if factors is None else factors.data_ptr())
    kind, chunks = int(levels == "thermometer"), -(-len(grad) // CHUNK)
    return ADJOINT(*pointers, dx.data_ptr(), sums.data_ptr(), kind, planes, len(grad), sample, 0, chunks)


def check_adjoint(name: str, grad: Tensor, levels: str, planes: int, sample: int = 0) -> Tensor:
    """dx exactly; the gradients within what the header says a chunk may lose of the sum of magnitudes; → the sums."""
    kernel, count = variant("adjoint", name), len(grad)
    windows, packed, scale = windows_of(count, planes, levels)
    factors = fenced(torch.randn(-(-count // sample))) if sample else None
    scaled = grad if factors is None else grad * factors.repeat_interleave(sample)[:count]
    rows = len(windows)
    dx, sums = Guarded(count, dtype=torch.float32), Guarded(-(-count // CHUNK), rows, dtype=torch.float64)
    args = adjoint_args(grad, packed, scale, dx.tensor, sums.tensor, levels, planes, factors, sample)
    assert kernel(args) == OK
    wanted = ste.window_adjoint(scaled, windows, scale, planes, levels)
    assert torch.equal(dx.tensor, wanted[0])
    dscale, dshift = torch.empty(rows // 2), torch.empty(rows // 2)
    assert call("abcfx_adjoint_finish", args, dscale, dshift) == OK
    exact = ste.window_adjoint(scaled.double(), windows, scale.double(), planes, levels)
    top = 2**planes - 1
    slope, rate = (top, (count * top) ** -0.5) if levels == "coded" else (1.0, 1.0)
    magnitude = float(scaled.double().abs().sum()) * rate * 33 * 2**-24  # 32 additions and the product
    torch.testing.assert_close(dscale.double(), exact[1], rtol=1e-6, atol=magnitude * slope)
    torch.testing.assert_close(dshift.double(), exact[2], rtol=1e-6, atol=magnitude * float(scale.max()))
    return sums.tensor


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", NAMES)
def test_adjoint_is_that_of_the_reference(name: str, count: int, levels: str) -> None:
    grad = fenced(torch.randn(count))
    for planes in (1, 2, 3, 8):
        check_adjoint(name, grad, levels, planes)
        for sample in (1, 7, 300, count):
            check_adjoint(name, grad, levels, planes, sample)


@pytest.mark.parametrize(("levels", "planes"), LEVELS)
def test_variants_add_in_the_same_order(levels: str, planes: int) -> None:
    """Bit for bit, so that a gradient does not depend on the processor."""
    found = []
    for name in NAMES:
        if variants("adjoint").get(name, "missing") is not None:
            continue
        torch.manual_seed(planes)
        found.append(check_adjoint(name, fenced(torch.randn(40000)), levels, planes, 700))
    assert found
    assert all(torch.equal(sums, found[0]) for sums in found)


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
@pytest.mark.parametrize("name", NAMES)
def test_overflow_is_not_hidden_by_a_window(name: str, levels: str) -> None:
    """An infinite or NaN gradient makes dx NaN outside too: whoever looks for overflow in dx finds it."""
    kernel, grad = variant("adjoint", name), torch.randn(300)
    grad[::7], grad[3::7] = torch.inf, torch.nan
    windows, packed, scale = windows_of(300, 2, levels)
    dx, sums = Guarded(300, dtype=torch.float32), Guarded(1, len(windows), dtype=torch.float64)
    assert kernel(adjoint_args(grad, packed, scale, dx.tensor, sums.tensor, levels, 2)) == OK
    wanted = ste.window_adjoint(grad, windows, scale, 2, levels)[0]
    torch.testing.assert_close(dx.tensor, wanted, rtol=0, atol=0, equal_nan=True)
    assert not sums.tensor.isfinite().any()


@pytest.mark.parametrize("name", NAMES)
def test_chunks_write_their_own_part(name: str) -> None:
    kernel, count = variant("adjoint", name), 3 * CHUNK + 5
    grad = torch.randn(count)
    windows, packed, scale = windows_of(count, 2, "coded")
    dx, sums = Guarded(count, dtype=torch.float32), Guarded(4, 2, dtype=torch.float64)
    args = adjoint_args(grad, packed, scale, dx.tensor, sums.tensor, "coded", 2)
    args.chunk_begin, args.chunk_end = 1, 3
    assert kernel(args) == OK
    own = slice(CHUNK, 3 * CHUNK)
    assert torch.equal(dx.tensor[own], (grad * windows[0])[own])
    outside = dx.untouched()
    outside[own] = True
    assert outside.all()
    assert sums.untouched()[:, 0].tolist() == [True, False, False, True]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("field", "value"), [("planes", 0), ("levels", -1), ("chunk_end", 2), ("chunk_begin", -1), ("sample", 0)]
)
def test_bad_adjoints_are_refused(name: str, field: str, value: int) -> None:
    kernel, grad = variant("adjoint", name), torch.randn(900)
    _, packed, scale = windows_of(900, 2, "coded")
    dx, sums = Guarded(900, dtype=torch.float32), Guarded(1, 2, dtype=torch.float64)
    args = adjoint_args(grad, packed, scale, dx.tensor, sums.tensor, "coded", 2, torch.ones(9), 100)
    setattr(args, field, value)
    assert kernel(args) == BAD_SHAPE
    assert dx.untouched().all()
