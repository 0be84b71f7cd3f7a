"""The CUDA tests use the cases, exact results and guarded outputs of the CPU kernels' tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "kernels"))

from kernel_abi import guard_bytes

__all__ = ["guard_bytes"]
