"""Packed models are evaluated on their kernels: the whole ResNet-20, on images made here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import abcfx


def test_a_packed_resnet20_answers_as_in_eager_mode(
    script: Callable[[str], ModuleType], tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate_packed = script("evaluate_packed")
    monkeypatch.setenv("COLUMNS", "120")
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 16), ("test", 40)):
        arrays |= {f"x_{part}": rng.integers(0, 256, (n, 3, 32, 32), np.uint8), f"y_{part}": np.arange(n) % 10}
    np.savez(tmp_path / "cifar.npz", **arrays)
    net = script("models_cifar").resnet20().eval()
    quantized = abcfx.calibrate(abcfx.quantize_model(net, 2, 3), [torch.randn(8, 3, 32, 32)])
    abcfx.save_packed(quantized, tmp_path / "small.abc")
    evaluate_packed.main([str(tmp_path / "small.abc"), "--data", str(tmp_path / "cifar.npz")])
    row = next(line for line in capsys.readouterr().out.splitlines() if "small.abc" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    assert cells[:2] == ["small.abc", "2, 3"]
    assert cells[2] == f"{(tmp_path / 'small.abc').stat().st_size / 1e3:.0f} kB"
    assert cells[3] == "f32"
    assert cells[5] == "0"
