"""The planner's experiment as a user starts it, on images and weights made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import abcfx


@pytest.fixture
def example(script, monkeypatch: pytest.MonkeyPatch):
    import abcfx.planner.planning as planning

    monkeypatch.setattr(planning, "COUNTS", (1, 3))
    return script("plan_cifar10")


def test_each_rival_is_no_slower_and_the_plan_is_kept(tmp_path: Path, example, capsys: pytest.CaptureFixture):
    torch.save(example.resnet20().state_dict(), tmp_path / "weights.th")
    rng = np.random.default_rng(0)
    images = {f"x_{part}": rng.integers(0, 256, (24, 3, 32, 32), np.uint8) for part in ("train", "test")}
    labels = {f"y_{part}": rng.integers(0, 10, 24) for part in ("train", "test")}
    np.savez(tmp_path / "cifar.npz", **images, **labels)
    files = ["--weights", str(tmp_path / "weights.th"), "--data", str(tmp_path / "cifar.npz")]
    out = tmp_path / "results" / "p"
    few = ["--calibration", "16", "--samples", "4", "--limit", "8", "--uniform", "3x3", "--out", str(out)]
    example.main([*files, *few])
    row = json.loads(out.with_suffix(".json").read_text())["rows"][0]
    for kind in example.KINDS:
        assert row[kind]["ms"] <= row["ms"] * (1 + 1e-6)
        assert 0 <= row[kind]["accuracy"] <= 100
    assert row["planned"]["loss"] <= min(row["uniform"]["loss"], row["uniform_or_float"]["loss"]) * (1 + 1e-6)
    assert row["planned_bits"]["bits"] <= 3 * (1 + 1e-6)
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    kept = abcfx.BudgetPlan.load(tmp_path / "results" / "p-plan.json")
    assert kept.uniform("3x3").ms == row["ms"]
    assert "planned" in capsys.readouterr().out
