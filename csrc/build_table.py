"""Which files of csrc/cpu are compiled for a machine, and with which flags.

The one home of it: setup.py builds the installed library from this table; the tests build from it the same kernels
under sanitizers and for other processors. No imports of the package, which does not exist yet when setup.py runs.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent
INCLUDE = ROOT / "include"
STANDARD = ["-std=c++20", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-ffp-contract=off"]
COMMON = ["-O3", "-g0", *STANDARD]

# What a file needs besides COMMON, by its name. Which of the variants runs is decided on the user's machine, so these
# instructions must stay in the file that asks for them.
FLAGS = {
    "x86_avx2.cpp": ["-mavx2", "-mfma", "-mpopcnt", "-mf16c"],
    "x86_avx512vpopcnt.cpp": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq", "-mavx2", "-mfma"),
        "-Wno-maybe-uninitialized",  # gcc 12: false alarms from its own intrinsics
    ],
    "x86_avx512bw.cpp": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma"),
        "-Wno-maybe-uninitialized",
    ],
}

# The start of a file's name says on which processors it is compiled; every other file is compiled on all.
FAMILIES = {"x86_": ("x86_64", "amd64"), "arm_": ("aarch64", "arm64")}


def kernel_sources(machine: str) -> list[Path]:
    """The files of csrc/cpu for a processor, as `platform.machine()` names it."""
    skipped = tuple(start for start, machines in FAMILIES.items() if machine.lower() not in machines)
    return sorted(path for path in (ROOT / "cpu").rglob("*.cpp") if not path.name.startswith(skipped))


def binding_sources() -> list[Path]:
    """The only files that include headers of torch."""
    return sorted((ROOT / "binding").rglob("*.cpp"))
