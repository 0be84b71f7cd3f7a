"""Builds csrc/cpu, which needs no torch, from the table that setup.py builds from: for sanitizers, other processors."""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
DRIVER = HERE / "driver"


def table() -> SimpleNamespace:
    """csrc/build_table.py; the test is skipped where the sources are not beside the tests."""
    path = CSRC / "build_table.py"
    if not path.is_file():
        pytest.skip("the sources of the kernels are not here")
    return SimpleNamespace(**runpy.run_path(str(path)))


def tool(*names: str) -> str:
    """The first of these programs that is installed; skips by name if none is."""
    for name in names:
        if name and (found := shutil.which(name)):
            return found
    pytest.skip(f"{' or '.join(filter(None, names))} is not installed")


def compiler() -> str:
    return tool(os.environ.get("CXX", ""), "g++", "clang++", "c++")


def compile_kernel(cxx: str, source: Path, folder: Path, flags: Sequence[str], text: str | None = None) -> str:
    """The object file of one source of csrc/cpu, or of an edited `text` of it."""
    build = table()
    place = source.relative_to(CSRC).with_suffix("").as_posix().replace("/", "_")
    target, where = folder / f"{place}.o", source
    if text is not None:
        where = folder / f"{place}.cpp"
        where.write_text(text)
    own = build.FLAGS.get(source.name, [])
    include = ["-I", str(build.INCLUDE), "-iquote", str(source.parent)]
    run([cxx, *build.STANDARD, *flags, *own, *include, "-c", str(where), "-o", str(target)])
    return str(target)


def compile_kernels(cxx: str, machine: str, folder: Path, flags: Sequence[str]) -> dict[Path, str]:
    """Object files of all kernels of a processor, each compiled with its own flags: source → object."""
    sources = table().kernel_sources(machine)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        objects = pool.map(lambda source: compile_kernel(cxx, source, folder, flags), sources)
        return dict(zip(sources, objects, strict=True))


def link_driver(cxx: str, objects: Iterable[str], folder: Path, flags: Sequence[str]) -> Path:
    """The test program of driver/ with these kernels linked in."""
    build, program = table(), folder / "driver"
    sources = [str(path) for path in sorted(DRIVER.glob("*.cpp"))]
    run([cxx, *build.STANDARD, *flags, "-I", str(build.INCLUDE), *sources, *objects, "-o", str(program)])
    return program


def link_library(cxx: str, objects: Iterable[str], folder: Path, flags: Sequence[str]) -> Path:
    """A shared library with the C ABI of csrc/include, and nothing of torch in it; the objects need -fPIC."""
    path = folder / "kernels.so"
    # symbolic: its own functions call each other, not those of an installed library that is loaded in the same process
    run([cxx, "-shared", "-Wl,-Bsymbolic", *flags, *objects, "-o", str(path)])
    return path


def run(command: Sequence[str], **environment: str) -> subprocess.CompletedProcess:
    """Runs a command; an exit code other than 0 fails the test with what the command said."""
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment}, check=False)
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout[-4000:]}\n{done.stderr[-8000:]}")
    return done
