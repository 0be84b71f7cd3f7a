"""The hot loops of the x86 GEMM kernels, read from their machine code: nothing spills, and nothing is there twice."""

from __future__ import annotations

import platform
import runpy
import shutil
from functools import cache
from pathlib import Path

import pytest
from kernel_abi import OTHER

pytestmark = pytest.mark.skipif(OTHER is not None, reason="the installed kernels are read")
READER = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "read_kernels.py"))


@cache
def loops(name: str) -> list:
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the x86 kernels are not built on this machine")
    for tool in ("g++", "objdump"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    return READER["loops_of"](next(path for path in READER["SOURCES"] if path.name == name))


def test_no_hot_loop_spills() -> None:
    avx512 = loops("x86_avx512vpopcnt.cpp")
    names = {loop.function for loop in avx512}
    assert {f"carry_save_tile<{n}>" for n in range(1, 5)} <= names
    # every full tile of up to 4 x 4 planes
    assert {(int(n), int(m)) for n, m in (name[5:].split(", ")[:2] for name in names if name.startswith("tile<"))} == {
        (n, m) for n in range(1, 5) for m in range(1, 5)
    }
    assert [loop.function for loop in avx512 if loop.counts()["store"]] == []
    # where gcc makes one loop of the AVX2 table and of the flush of its byte counters (vpsadbw), the flush stores
    assert loops("x86_avx2.cpp")
    table = [loop for loop in loops("x86_avx2.cpp") if not any("vpsadbw" in line for line in loop.body)]
    assert [loop.function for loop in table if loop.counts()["store"]] == []


def test_carry_save_is_five_operations_for_two_words() -> None:
    """12 windows: 12 of each, one xor more for W12; both words of a window are read inside an operation."""
    for loop in loops("x86_avx512vpopcnt.cpp"):
        if not loop.function.startswith("carry_save_tile"):
            continue
        counts = loop.counts()
        assert {kind: counts[kind] for kind in ("popcount", "xor", "ternary", "add", "load")} == {
            "popcount": 12, "xor": 13, "ternary": 24, "add": 12, "load": 26,
        }  # fmt: skip
        # copies cost no execution unit; broadcasts from general registers would
        assert counts["code"] - counts["copy"] <= 68, loop.body


def test_the_basic_kernel_is_three_operations_a_word() -> None:
    for loop in loops("x86_avx512vpopcnt.cpp"):
        counts = loop.counts()
        if loop.function.startswith("tile<"):
            assert counts["popcount"] == counts["xor"] == counts["add"], loop.function
            assert counts["reload"] <= 14, loop.function  # row pointers that found no general register
