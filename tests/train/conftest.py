from __future__ import annotations

import pytest
from tiny import tiny_data

from abcfx.data import Dataset


@pytest.fixture
def data() -> Dataset:
    return tiny_data()
