from __future__ import annotations

import pytest

from abcfx.ops import library


@pytest.fixture(autouse=True)
def _verify_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABCFX_VERIFY", "1")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lower to kernels wherever they apply, though the layers are tiny; without compiled ones the reference runs."""
    monkeypatch.setattr(library, "kernel_variant", lambda op="bgemm": {"lut": "reference"}.get(op, "avx512vpopcnt"))
    monkeypatch.setenv("ABCFX_FORM", "xnor")
