"""The compiled kernels: where they are, whether they run here, and which variant was chosen.

`torch.ops.load_library` registers their CPU implementations of the abc_k ops. Without the library the pure-torch
references of abcfx/ops/kernel_*.py take over, and `problem()` says why in one line.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import torch
from torch.library import Library

import abcfx

NAME = "_kernels" + {"darwin": ".dylib", "win32": ".dll"}.get(sys.platform, ".so")
FORCE = "ABCFX_KERNEL"
LISTS = ("bgemm", "lut", "pack", "unpack", "window", "adjoint", "round", "positions", "refit", "epilogue")


def register_reference(lib: Library, name: str, fn: Callable) -> None:
    """The pure-torch form of an op, for every device; a compiled CPU implementation takes precedence over it."""
    lib.impl(name, fn, "CompositeExplicitAutograd")


def candidates(name: str = NAME) -> Iterator[Path]:
    """Where a library may be: beside the package, else where the installed distribution put it.

    The second matters when Python starts in the repository root after a normal install: `./abcfx` then shadows the
    installed package, which has the library.
    """
    for entry in abcfx.__path__:
        yield Path(entry) / name
    for distribution in importlib.metadata.distributions(name="abcfx"):
        for file in distribution.files or ():
            if file.name == name:
                yield Path(str(distribution.locate_file(file)))


def load(name: str, missing: str) -> tuple[Path | None, str | None]:
    """(path, None) once the library of this name is loaded, else (None, the reason); `missing` is that of no file."""
    found = next((path for path in candidates(name) if path.is_file()), None)
    if found is None:
        return None, missing
    try:
        torch.ops.load_library(found)
    except OSError as error:
        return None, f"{found} cannot be loaded: {error}"
    return found, None


@cache
def _load() -> tuple[Path | None, str | None]:
    missing = "the compiled kernels are not installed; reinstall abcfx with a C++ compiler and read its warnings"
    return load(NAME, missing)


def path() -> Path | None:
    return _load()[0]


def loaded() -> bool:
    return path() is not None


def problem() -> str | None:
    """Why the compiled kernels, or the variant asked for, are not in use; None if all is well."""
    if not loaded():
        return _load()[1]
    forced = os.environ.get(FORCE)
    if not forced:
        return None
    found = {op: variants(op)[forced] for op in LISTS if forced in variants(op)}
    if not found:
        known = dict.fromkeys(name for op in LISTS for name in variants(op))
        return f"{FORCE}={forced} is ignored: the variants are {', '.join(known)}"
    missing = next((feature for feature in found.values() if feature), None)
    return f"{FORCE}={forced} is ignored: CPU lacks {missing}" if missing else None


@cache
def handle() -> ctypes.CDLL:
    """The C ABI of the loaded library (csrc/include/abcfx)."""
    where = path()
    if where is None:
        raise RuntimeError(problem())
    return open_kernels(where)


def open_kernels(where: Path) -> ctypes.CDLL:
    """The C ABI of a library that holds the kernels, with or without the torch operators."""
    library = ctypes.CDLL(str(where))
    for op in LISTS:
        for function, arguments in (("variant", [ctypes.c_int]), ("missing", [ctypes.c_int]), ("chosen_name", [])):
            symbol = getattr(library, f"abcfx_{op}_{function}")
            symbol.argtypes, symbol.restype = arguments, ctypes.c_char_p
    library.abcfx_lut_lanes.argtypes, library.abcfx_lut_lanes.restype = [ctypes.c_char_p], ctypes.c_int64
    return library


@cache
def variants(op: str = "bgemm") -> dict[str, str | None]:
    """The variants of one of LISTS, best first: name → the CPU feature missing here, None if it runs."""
    return variants_of(handle(), op)


def variants_of(kernels: ctypes.CDLL, op: str) -> dict[str, str | None]:
    """`variants` of a library opened with `open_kernels`."""
    names: dict[str, str | None] = {}
    while name := getattr(kernels, f"abcfx_{op}_variant")(len(names)):
        missing = getattr(kernels, f"abcfx_{op}_missing")(len(names))
        names[name.decode()] = missing.decode() if missing else None
    return names


@cache
def kernel_variant(op: str = "bgemm") -> str:
    """The variant that runs: a name of kernels.inc; "reference" if the library is not loaded."""
    return getattr(handle(), f"abcfx_{op}_chosen_name")().decode() if loaded() else "reference"


@cache
def lut_lanes() -> int:
    """Output channels in a block of the lookup kernel that runs; without the compiled library, of the reference."""
    return int(handle().abcfx_lut_lanes(None)) if loaded() else 32


_load()
