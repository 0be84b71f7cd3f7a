"""Seeds are fixed per test: the session seed xor a hash of the test's name."""

from __future__ import annotations

import zlib

import pytest
import torch

SESSION_SEED = 20170901

# Many small operators on two threads of a busy machine spend their time waiting for each other. Tests of threading ask
# for more themselves.
torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--fuzz", type=int, default=150, metavar="N", help="random cases in tests/ops/test_fuzz.py")
    parser.addoption("--part", type=int, default=1, metavar="N", help="one in N cases of the tests with parameters")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Which ones --part leaves follows from a hash of their names, so that it is the same ones in every run."""
    part = config.getoption("--part")
    left = {item for item in items if "[" in item.name and zlib.crc32(item.nodeid.encode()) % part}
    config.hook.pytest_deselected(items=list(left))
    items[:] = [item for item in items if item not in left]


@pytest.fixture(autouse=True)
def _seed(request: pytest.FixtureRequest) -> None:
    torch.manual_seed(SESSION_SEED ^ zlib.crc32(request.node.nodeid.encode()))
