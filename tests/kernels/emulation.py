"""The AVX-512 and AMX kernels on machines without these instructions: the real sources.

Each intrinsic is a loop in emulated/immintrin.h, so what runs is the kernels' own logic. It says nothing about speed.
"""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CSRC = HERE.parent.parent / "csrc"
SOURCES = sorted([*(CSRC / "cpu").glob("*/x86_avx512*.cpp"), *(CSRC / "cpu").glob("*/x86_amx.cpp")])
FLAGS = [
    "-std=c++20",
    "-shared",
    "-fPIC",
    "-ffp-contract=off",
    "-Wall",
    "-Werror",
    "-Wno-psabi",
    f"-I{CSRC / 'include'}",
]


@cache
def compiler() -> list[str] | None:
    """The C++ compiler's command: CXX, else the first that is installed."""
    if os.environ.get("CXX"):
        return shlex.split(os.environ["CXX"])
    found = next((path for name in ("c++", "g++", "clang++") if (path := shutil.which(name))), None)
    return [found] if found else None


def build(target: Path, sources: list[Path], *flags: str) -> ctypes.CDLL:
    """One shared library, its functions visible. Without flags of a real CPU the intrinsics are the emulated ones."""
    command = compiler()
    if command is None:
        pytest.skip("no C++ compiler to build the emulated kernels")
    flags = flags or ("-O1", f"-I{HERE / 'emulated'}")
    run = subprocess.run(
        [*command, *FLAGS, *flags, *map(str, sources), "-o", str(target)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return ctypes.CDLL(str(target))


@cache
def kernels() -> ctypes.CDLL:
    """Every AVX-512 and AMX source of csrc/cpu, emulated. Built once a session; the loaded file needs no name then."""
    with tempfile.TemporaryDirectory() as directory:
        return build(Path(directory) / "emulated.so", SOURCES)


def function(name: str) -> Callable[[int], int]:
    """A kernel of the emulated library by its C name; it takes the address of its arguments."""
    found = getattr(kernels(), name)
    found.argtypes, found.restype = [ctypes.c_void_p], ctypes.c_int
    return found
