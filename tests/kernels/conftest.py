"""After every test of a kernel, the guard bytes around everything that it wrote are looked at."""

from __future__ import annotations

from kernel_abi import OTHER, guard_bytes

__all__ = ["guard_bytes"]


def pytest_report_header() -> str | None:
    return f"kernels under test: {OTHER}" if OTHER else None
