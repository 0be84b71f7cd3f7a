"""After every test of a kernel, the guard bytes around everything that it wrote are looked at."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kernel_abi import OTHER, Guarded


@pytest.fixture(autouse=True)
def _guard_bytes() -> Iterator[None]:
    Guarded.alive.clear()
    yield
    broken = [tuple(output.tensor.shape) for output in Guarded.alive if not output.walls_intact()]
    Guarded.alive.clear()
    assert not broken, f"written outside of the outputs of shape {broken}"


def pytest_report_header() -> str | None:
    return f"kernels under test: {OTHER}" if OTHER else None
