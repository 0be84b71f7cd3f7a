from __future__ import annotations

from collections.abc import Iterator

import pytest

from abcfx.cost import rates
from abcfx.ops import library
from abcfx.ops.choose import _choose as choose_from_memory


@pytest.fixture(autouse=True)
def _verify_every_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABCFX_VERIFY", "1")


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Lower to kernels wherever they apply, though the layers are tiny; without compiled ones the reference runs."""
    monkeypatch.setattr(library, "kernel_variant", lambda op="bgemm": {"lut": "reference"}.get(op, "avx512vpopcnt"))
    monkeypatch.setattr(rates, "vendor", lambda: "intel")
    choose_from_memory.cache_clear()
    monkeypatch.setenv("ABCFX_FORM", "xnor")
    yield
    choose_from_memory.cache_clear()
