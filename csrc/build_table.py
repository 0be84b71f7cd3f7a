"""Which files of csrc are compiled for a machine, and with which flags.

The one home of it: setup.py builds the installed library from this table; the tests build from it the same kernels
under sanitizers and for other processors. No imports of the package, which does not exist yet when setup.py runs.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent
INCLUDE = ROOT / "include"
STANDARD = ["-std=c++20", "-fvisibility=hidden", "-fvisibility-inlines-hidden", "-ffp-contract=off"]
COMMON = ["-O3", "-g0", *STANDARD]

AVX512_BW = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx2", "-mfma")

# What a file needs besides COMMON, by its name. Which of the variants runs is decided on the user's machine, so these
# instructions must stay in the file that asks for them.
FLAGS = {
    "x86_avx2.cpp": ["-mavx2", "-mfma", "-mpopcnt", "-mf16c"],
    "x86_avx512vpopcnt.cpp": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512vpopcntdq", "-mavx2", "-mfma"),
        "-Wno-maybe-uninitialized",  # gcc 12: false alarms from its own intrinsics
    ],
    "x86_avx512bw.cpp": [*AVX512_BW, "-Wno-maybe-uninitialized"],
    "x86_amx.cpp": [*AVX512_BW, "-Wno-maybe-uninitialized"],  # functions with tile instructions name them themselves
}

# The start of a file's name says on which processors it is compiled; every other file is compiled on all.
FAMILIES = {"x86_": ("x86_64", "amd64"), "arm_": ("aarch64", "arm64")}


def kernel_sources(machine: str) -> list[Path]:
    """The files of csrc/cpu for a processor, as `platform.machine()` names it."""
    skipped = tuple(start for start, machines in FAMILIES.items() if machine.lower() not in machines)
    return sorted(path for path in (ROOT / "cpu").rglob("*.cpp") if not path.name.startswith(skipped))


def binding_sources() -> list[Path]:
    """The only files that include headers of torch: those of the CPU library."""
    return sorted(path for path in (ROOT / "binding").rglob("*.cpp") if not path.name.startswith("cuda_"))


# What nvcc compiles code for. sm_100 and later have no bit units; theirs holds the pack and matrix-vector kernels.
ARCHITECTURES = ("75", "80", "86", "89", "90", "100")
# Files whose instructions exist on one architecture only; for others they would compile to a trap.
ONLY_FOR = {"launch.cu": ("90a",)}


def cuda_sources() -> list[Path]:
    """The CUDA library: kernels for nvcc, its binding, and the host function that it shares with the CPU library."""
    binding = (ROOT / "binding").rglob("cuda_*.cpp")
    return sorted([*(ROOT / "cuda").rglob("*.cu"), *binding, ROOT / "cpu" / "padding" / "padding.cpp"])


def nvcc_flags(name: str) -> list[str]:
    """Of a .cu file, by its name; -ffp-contract has no meaning for device code, whose kernels round where they say."""
    codes = [f"-gencode=arch=compute_{sm},code=sm_{sm}" for sm in ONLY_FOR.get(name, ARCHITECTURES)]
    return ["-std=c++20", "-O3", "-Xcompiler", "-fvisibility=hidden", *codes]
