"""The compiled CUDA kernels: a second library, loaded where torch has CUDA. Without it CUDA layers run in dense form.

Loading it registers the CUDA implementations of the abc_k ops, all but those of the weight fit (docs/cuda.md). It asks
for no device: a process that forks its workers afterwards is not disturbed.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch

from abcfx.ops import library

NAME = "_kernels_cuda.so"
NO_KERNELS = "reference"
# The first architecture with bit matrix instructions, and the first without them again.
FIRST, PAST_LAST = 75, 100


@cache
def _load() -> tuple[Path | None, str | None]:
    """(path, None) once the library is loaded, else (None, the reason)."""
    if torch.version.cuda is None:
        return None, "torch is a build without CUDA"
    missing = "the CUDA kernels are not installed; reinstall abcfx where nvcc is, and read its warnings"
    return library.load(NAME, missing)


def path() -> Path | None:
    return _load()[0]


def loaded() -> bool:
    return path() is not None


def problem() -> str | None:
    """Why the CUDA kernels are not in use, in one line; None if they are."""
    return " ".join(reason.split()) if (reason := _load()[1]) else None


@cache
def variant(index: int | None = None) -> str:
    """ "sm_90": what they run on, on the device of this index (None: the current one); "reference" without them."""
    if not loaded() or not torch.cuda.is_available():
        return NO_KERNELS
    major, minor = torch.cuda.get_device_capability(index)
    return f"sm_{major}{minor}"


def refusal(name: str) -> str | None:
    """Why no layer runs on bit planes on a device of this `variant`; None if they may."""
    if name == NO_KERNELS:
        return problem() or "torch sees no CUDA device"
    if not FIRST <= int(name.removeprefix("sm_")) < PAST_LAST:
        return f"{name} has no bit matrix units; the dense form is what is fast there"
    return None


_load()
