"""The CUDA sources as a library for the CPU: threads of a block are fibers (emulated/fibers.h)."""

from __future__ import annotations

import ctypes
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from build_kernels import CSRC, compiler, run, table
from kernel_abi import P, structure
from torch import Tensor

HERE = Path(__file__).parent
FLOAT = ctypes.c_float
POINTERS = "a w alpha beta alpha_sum row_sum column_base base gain offset class_h class_w dst stream"
BGEMM = structure(
    "abcfx_cuda_bgemm_args",
    f"{POINTERS} low high dst_type kernel classes_w weight_bases activation_bases images padded_h padded_w out_h out_w "
    "kernel_h kernel_w stride_h stride_w dilation_h dilation_w groups words depth cols",
    dict.fromkeys(POINTERS.split(), P) | {"low": FLOAT, "high": FLOAT},
)
EMIT = structure(
    "abcfx_cuda_emit_args",
    "residual dst counts inverse shift slope gain offset low high levels planes groups top left bottom right",
    dict.fromkeys("residual dst counts inverse shift slope gain offset".split(), P) | {"low": FLOAT, "high": FLOAT},
)
WEIGHTS = structure(
    "abcfx_cuda_weights_args",
    "src dst counts stream bases groups cols taps channels",
    dict.fromkeys("src dst counts stream".split(), P),
)


@cache
def kernels(form: str = "and") -> ctypes.CDLL:
    """`form` is "and" (sm_80 and later) or "xor" (sm_75)."""
    cxx, flags = compiler(), ["-DABCFX_TEST_XOR"] if form == "xor" else []
    with tempfile.TemporaryDirectory() as folder:
        target = str(Path(folder) / "cuda.so")
        include = [f"-I{table().INCLUDE}", f"-I{CSRC / 'cuda'}", f"-I{HERE / 'emulated'}"]
        flags += ["-O2", "-Wno-unknown-pragmas", "-shared", "-fPIC", *include]
        run([cxx, *table().STANDARD, *flags, str(HERE / "emulated" / "cuda.cpp"), "-o", target])
        return ctypes.CDLL(target)


def call(name: str, args: ctypes.Structure, *more: Tensor | ctypes.Structure | None, form: str = "and") -> int:
    def pointer(t: Tensor | ctypes.Structure | None) -> object:
        return ctypes.byref(t) if isinstance(t, ctypes.Structure) else P(None if t is None else t.data_ptr())

    pointers = [pointer(t) for t in more]
    return getattr(kernels(form), name)(ctypes.byref(args), *pointers)


@contextmanager
def device(major: int) -> Iterator[None]:
    """Calls inside see a device of this compute capability."""
    seen = ctypes.c_int.in_dll(kernels(), "emulated_major")
    before, seen.value = seen.value, major
    yield
    seen.value = before
