"""What this machine has: threads, compilers, kernels. Read by the demo, the doctor and the benchmark."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from collections.abc import Mapping

import torch

from abcfx import autotune
from abcfx.ops import library


def cpp_compiler() -> str | None:
    """The C++ compiler that inductor would use: $CXX, else the first of the usual names on the PATH."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++", "cl"]
    return next((found for name in names if (found := shutil.which(name))), None)


def version_line(program: str) -> str | None:
    """First line of `program --version`, None if it does not run."""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return (done.stdout or done.stderr).strip().splitlines()[0]


def kernel_names() -> str:
    """The variants that run, e.g. "avx512vpopcnt" or "bgemm avx2, pack portable"."""
    chosen = {op: library.kernel_variant(op) for op in library.LISTS}
    if len(set(chosen.values())) == 1:
        return next(iter(chosen.values()))
    return ", ".join(f"{op} {variant}" for op, variant in chosen.items())


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads() -> str:
    """ "2 threads" as PyTorch has them."""
    count = torch.get_num_threads()
    return f"{count} thread{'s' if count > 1 else ''}"


def describe() -> dict[str, object]:
    """What a timing depends on, for JSON."""
    return {
        "cpu": autotune.cpu_model(),
        "cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "kernels": kernel_names(),
        "torch": torch.__version__,
        "torch_isa": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def line(described: Mapping[str, object]) -> str:
    """What `describe` found, on one line."""
    d, plural = described, "s" if described["threads"] != 1 else ""
    return (
        f"{d['cpu']}, {d['threads']} thread{plural} of {d['cores']} cores; abcfx kernels {d['kernels']}; "
        f"torch {d['torch']} ({d['torch_isa']})"
    )
