from __future__ import annotations

import pytest

from abcfx.ops import library


@pytest.fixture(autouse=True)
def _verify_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABCFX_VERIFY", "1")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower as on a machine with compiled kernels; where there are none, the reference runs in their place."""
    monkeypatch.setattr(library, "kernel_variant", lambda: "avx512vpopcnt")
