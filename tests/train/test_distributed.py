from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from ranks_child import gradients

from abcfx.train.distributed import ALONE, Ranks

CHILD = Path(__file__).with_name("ranks_child.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Gradients of two processes with half of a batch of 16 each."""
    out = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", CHILD, out]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("levels", ["coded", "thermometer"])
def test_two_processes_have_the_gradients_of_the_joined_batch(folder: Path, levels: str):
    joined = gradients(levels, ALONE)
    parts = [torch.load(folder / f"{levels}{rank}.pt") for rank in (0, 1)]
    for name, expected in joined.items():
        assert torch.equal(parts[0][name], parts[1][name]), name
        if levels == "coded" and name.endswith("activation_scale"):
            # dithered by the place in the tensor: the same in the mean only, here at most a few deviations apart
            assert (parts[0][name] - expected).abs() < 5 * expected.abs() + 0.01
            continue
        # sums of the same f32 products in another order
        torch.testing.assert_close(parts[0][name], expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")
    assert joined["conv2.activation_shift"].abs().max() > 0


def test_a_batch_that_cannot_be_shared():
    with pytest.raises(ValueError, match="a batch of 10 cannot be shared equally by 4 processes; give a multiple"):
        Ranks(0, 4).check_batch(10)


def test_parts_cover_the_batch_once():
    places = list(range(100))
    assert [place for rank in range(4) for place in places[Ranks(rank, 4).part(20, 60)]] == places[20:60]
