"""The kernel tests again, one case in three, on kernels built with AddressSanitizer and UndefinedBehaviorSanitizer.

Python is not built with them, so the run-time library has to be loaded before everything else; leaks are not looked
for, since Python's own would drown them, and no kernel allocates. All cases:

    ABCFX_SANITIZED_PART=1 pytest tests/kernels/test_sanitizers.py
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
from build_kernels import CSRC, HERE, compile_kernel, compile_kernels, compiler, link_driver, link_library, run
from kernel_abi import OTHER

# A report ends the process: a test must not pass because nobody read what was printed.
# Without optimization: it compiles in a third of the time, and the kernels are not what the tests wait for.
FLAGS = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-g1", "-O0", "-fPIC"]
PROBLEMS = 30
PART = int(os.environ.get("ABCFX_SANITIZED_PART", "3"))

pytestmark = pytest.mark.skipif(OTHER is not None, reason="this is the run on other kernels")


class Build(NamedTuple):
    cxx: str
    runtime: str
    objects: dict[Path, str]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Build:
    cxx = compiler()
    runtime = runtime_of(cxx)
    return Build(cxx, runtime, compile_kernels(cxx, platform.machine(), tmp_path_factory.mktemp("sanitized"), FLAGS))


def runtime_of(cxx: str) -> str:
    """The run-time library of AddressSanitizer; skips by name where the compiler has none."""
    for name in ("libasan.so", f"libclang_rt.asan-{platform.machine()}.so"):
        path = subprocess.run([cxx, f"-print-file-name={name}"], capture_output=True, text=True, check=True).stdout
        if os.path.isabs(path.strip()):
            return path.strip()
    pytest.skip(f"{cxx} has no libasan")


def run_tests(library: Path, runtime: str, arguments: Sequence[str]) -> subprocess.CompletedProcess:
    """pytest in a process whose kernels are those of `library`."""
    environment = {
        **os.environ,
        "ABCFX_TEST_KERNELS": str(library),
        "LD_PRELOAD": runtime,
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    # -s: what the sanitizers print before they end the process must not end with it
    command = [sys.executable, "-m", "pytest", "-v", "-s", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=HERE.parent.parent, check=False)


def test_the_kernel_tests_under_the_sanitizers(build: Build, tmp_path: Path) -> None:
    library = link_library(build.cxx, build.objects.values(), tmp_path, FLAGS)
    # what is emulated is built without sanitizers, and slow
    done = run_tests(library, build.runtime, [str(HERE), "-k", "not emulated", "--part", str(PART)])
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-8000:]
    assert f"kernels under test: {library}" in done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[-1]) > 1500 // PART


BROKEN = {  # source: (what is there, an error, what must be said about it)
    "bgemm/portable.cpp": ("args->alpha + p * channels", "args->alpha + 1 + p * channels", "heap-buffer-overflow"),
    "pack/portable.cpp": (
        "gather_bits(codes + b, q) << b",
        "gather_bits(codes + b, q) << (b + 8)",
        "shift exponent 64 is too large",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_an_error_in_a_kernel_is_found(name: str, build: Build, tmp_path: Path) -> None:
    """An α read past the end of the table, which no page fence guards; a shift by 64 bits, which x86 makes harmless."""
    right, wrong, message = BROKEN[name]
    source = CSRC / "cpu" / name
    text = source.read_text()
    assert right in text
    broken = compile_kernel(build.cxx, source, tmp_path, FLAGS, text.replace(right, wrong))
    library = link_library(build.cxx, (build.objects | {source: broken}).values(), tmp_path, FLAGS)
    test = HERE / f"test_{name.split('/')[0]}.py"
    done = run_tests(library, build.runtime, ["-k", "portable", str(test)])
    assert done.returncode != 0
    assert message in done.stdout + done.stderr, done.stdout[-2000:] + done.stderr[-4000:]


def test_random_problems_under_the_sanitizers(build: Build, tmp_path: Path) -> None:
    program = link_driver(build.cxx, build.objects.values(), tmp_path, FLAGS)
    assert f"{PROBLEMS} problems of each op agree" in run([str(program), str(PROBLEMS)]).stdout
