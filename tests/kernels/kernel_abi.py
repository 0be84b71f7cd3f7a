"""The C ABI of csrc/include/abcfx through ctypes, and memory that shows what a kernel touches."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import weakref
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar

import emulation
import pytest
import torch
from torch import Tensor

from abcfx.ops import library

P, INT64 = ctypes.c_void_p, ctypes.c_int64
OK, BAD_SHAPE = 0, 1
VARIANTS = ("avx512vpopcnt", "avx2", "neon", "portable", "reference")
EMULATED = "avx512vpopcnt emulated"  # the same source, its intrinsics written as loops: runs on any machine
RUNNABLE = (*VARIANTS, EMULATED)
FORCED = ("avx512vpopcnt_basic emulated", "avx512vpopcnt_carrysave emulated")  # each kernel of it, at every size
# Another library with the C ABI to test in place of the installed one: the same kernels built with sanitizers.
OTHER = os.environ.get("ABCFX_TEST_KERNELS")


def structure(name: str, text: str, types: dict[str, type]) -> type[ctypes.Structure]:
    """A ctypes struct whose fields are int64 unless `types` says otherwise."""
    return type(name, (ctypes.Structure,), {"_fields_": [(field, types.get(field, INT64)) for field in text.split()]})


BGEMM = structure(
    "abcfx_bgemm_args",
    "a w alpha beta base dst class_h class_w classes_w weight_bases activation_bases images padded_h padded_w "
    "out_h out_w kernel_h kernel_w stride_h stride_w dilation_h dilation_w groups words depth cols "
    "row_begin row_end block_begin block_end",
    dict.fromkeys("a w alpha beta base dst class_h class_w".split(), P),
)
PACK = structure(
    "abcfx_pack_args",
    "src dst scale shift gain offset dtype levels planes images channels height width "
    "stride_n stride_c stride_h stride_w top left bottom right groups line_begin line_end pixel_begin pixel_end "
    "low high",
    dict.fromkeys("src dst scale shift gain offset".split(), P) | {"low": ctypes.c_float, "high": ctypes.c_float},
)
UNPACK = structure(
    "abcfx_unpack_args",
    "src dst scale shift levels planes images channels height width top left bottom right groups "
    "line_begin line_end pixel_begin pixel_end",
    dict.fromkeys("src dst scale shift".split(), P),
)
WINDOW = structure(
    "abcfx_window_args",
    "src dst scale shift edges dtype levels planes count block_begin block_end",
    dict.fromkeys("src dst scale shift edges".split(), P),
)
ADJOINT = structure(
    "abcfx_adjoint_args",
    "grad windows scale sample_scale dx sums levels planes count sample chunk_begin chunk_end",
    dict.fromkeys("grad windows scale sample_scale dx sums".split(), P),
)
BITWEIGHTS = structure(
    "abcfx_bitweights_args", "src dst bases groups cols taps channels block_begin block_end", {"src": P, "dst": P}
)
PADDING = structure(
    "abcfx_padding_args",
    "tap_sums bias base cols kernel_h kernel_w classes_h classes_w first_h last_h first_w last_w constant beta_sum",
    dict.fromkeys("tap_sums bias base first_h last_h first_w last_w".split(), P)
    | {"constant": ctypes.c_float, "beta_sum": ctypes.c_float},
)
REFIT = structure(
    "abcfx_refit_args",
    "src start dst alpha error power scratch bases rows taps channels stride_row stride_tap stride_channel "
    "alternations coded row_begin row_end",
    dict.fromkeys("src start dst alpha error power scratch".split(), P),
)
EPILOGUE = structure(
    "abcfx_epilogue_args",
    "src dst residual gain offset slope low high cols src_step dst_step residual_step row_begin row_end",
    dict.fromkeys("src dst residual gain offset slope".split(), P) | {"low": ctypes.c_float, "high": ctypes.c_float},
)
DEQUANTIZE = structure(
    "abcfx_dequantize_args",
    "src alpha out tap_sums bases rows taps channels row_begin row_end",
    dict.fromkeys("src alpha out tap_sums".split(), P),
)


@cache
def handle() -> ctypes.CDLL:
    """The C ABI of the kernels under test; skips where there are none."""
    if OTHER:
        return library.open_kernels(Path(OTHER))
    if not library.loaded():
        pytest.skip(library.problem())
    return library.handle()


@cache
def variants(op: str) -> dict[str, str | None]:
    """The variants of the kernels under test, best first: name → the CPU feature missing here, None if it runs."""
    return library.variants_of(handle(), op)


def call(name: str, args: ctypes.Structure, *more: Tensor) -> int:
    return getattr(handle(), name)(ctypes.byref(args), *(P(t.data_ptr()) for t in more))


def variant(op: str, name: str) -> Callable[[ctypes.Structure], int]:
    """The function of a variant; skips by name if this machine does not run it."""
    if name.endswith(" emulated"):
        function = emulation.function(f"abcfx_{op}_{name.removesuffix(' emulated')}")
        return lambda args: function(ctypes.addressof(args))
    known = variants(op)
    if name not in known:
        pytest.skip(f"{name} is not in this build")
    if known[name] is not None:
        pytest.skip(f"CPU lacks {known[name]}")
    find = getattr(handle(), f"abcfx_{op}_find")
    find.argtypes, find.restype = [ctypes.c_char_p], P
    function = ctypes.CFUNCTYPE(ctypes.c_int, P)(find(name.encode()))
    return lambda args: function(ctypes.addressof(args))


@cache
def runnable(op: str) -> dict[str, Callable[[ctypes.Structure], int]]:
    """The variants that this machine runs, for tests whose reference is what takes time; the emulated one too, unless
    another library is tested.
    """
    found = {}
    for name in VARIANTS if OTHER else RUNNABLE:
        with contextlib.suppress(pytest.skip.Exception):
            found[name] = variant(op, name)
    return found


class Guarded:
    """An output between two walls of a bit pattern, filled with it: `untouched` says where nothing was written.

    `guard_bytes` looks at the walls of every one after the test that made it, so that no test can forget to.
    """

    WALL = 64
    alive: ClassVar[list[Guarded]] = []

    def __init__(self, *shape: int, dtype: torch.dtype) -> None:
        self.alive.append(self)
        self.pattern = -12345.0 if dtype.is_floating_point else 0x5A if dtype.itemsize == 1 else 0x5A5A5A5A
        size = torch.Size(shape).numel()
        self.memory = torch.full((size + 2 * self.WALL,), self.pattern, dtype=dtype)
        self.tensor = self.memory[self.WALL : self.WALL + size].view(shape)

    def walls_intact(self) -> bool:
        walls = torch.cat([self.memory[: self.WALL], self.memory[len(self.memory) - self.WALL :]])
        return bool((walls == self.pattern).all())

    def untouched(self) -> Tensor:
        return self.tensor == self.pattern


@pytest.fixture(autouse=True)
def guard_bytes() -> Iterator[None]:
    """For a conftest.py to import: it then acts in every test of that folder."""
    Guarded.alive.clear()
    yield
    broken = [tuple(output.tensor.shape) for output in Guarded.alive if not output.walls_intact()]
    Guarded.alive.clear()
    assert not broken, f"written outside of the outputs of shape {broken}"


def fenced(tensor: Tensor) -> Tensor:
    """A copy with the same strides that ends at an unreadable page: a read past its last element crashes the test."""
    storage = torch.as_strided(tensor, (tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
    last = tensor.storage_offset() + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    size = (last + 1) * tensor.itemsize
    page = mmap.PAGESIZE
    pages = -(-size // page) * page
    memory = mmap.mmap(-1, pages + page)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mprotect(P(start + pages), ctypes.c_size_t(page), 0) == 0
    copy = torch.frombuffer(memory, dtype=tensor.dtype, count=last + 1, offset=pages - size)
    copy.copy_(storage[: last + 1])
    # the page must be writable again when the mapping is given back
    weakref.finalize(copy, libc.mprotect, P(start + pages), ctypes.c_size_t(page), 3)
    return torch.as_strided(copy, tensor.shape, tensor.stride(), tensor.storage_offset())
