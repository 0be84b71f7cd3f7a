"""The CUDA tests use cases, exact results and guarded outputs of the CPU kernels' tests, and graphs of the passes'."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parents[1] / name) for name in ("kernels", "passes")]

from kernel_abi import guard_bytes

__all__ = ["guard_bytes"]
