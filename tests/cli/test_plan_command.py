"""`python -m abcfx plan`: a table, JSON, a saved plan that is solved again, and errors of one sentence."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import abcfx
from abcfx.cli.front import main

SMALL = ["plan", "demo", "--images", "48", "--samples", "8", "--include", "stage3.*"]


@pytest.fixture(autouse=True)
def _two_counts(monkeypatch: pytest.MonkeyPatch):
    import abcfx.planner.planning as planning

    monkeypatch.setattr(planning, "COUNTS", (1, 3))


def test_a_plan_is_made_shown_saved_drawn_and_solved_again(tmp_path: Path, capsys: pytest.CaptureFixture):
    saved, picture = tmp_path / "plan.json", tmp_path / "pareto.png"
    assert main([*SMALL, "--speedup", "1.2", "--save", str(saved), "--picture", str(picture)]) == 0
    shown = capsys.readouterr().out
    assert "stage3.conv1" in shown
    assert "predicted" in shown
    assert "estimated: the loss rises by" in shown
    assert picture.read_bytes().startswith(b"\x89PNG")
    plan = abcfx.BudgetPlan.load(saved)
    assert plan.speedup >= 1.2
    assert set(plan.choices.values()) <= {"float", "1x1", "1x3", "3x1", "3x3"}
    assert main(["plan", "demo", "--from", str(saved), "--bits", "3", "--json"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["totals"]["bits"] <= 3
    assert again["budget"] == {"bits": 3.0}


def test_accuracy_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main([*SMALL, "--accuracy-drop", "20"]) == 0
    assert "measured on" in capsys.readouterr().out


def test_inputs_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture):
    torch.save(torch.randn(16, 1, 28, 28), tmp_path / "inputs.pt")
    argv = [*SMALL, "--data", str(tmp_path / "inputs.pt"), "--bits", "3", "--fix", "stage3.conv1=float", "--json"]
    assert main([*argv, "--input", "2,1,28,28"]) == 2  # 3 bits cannot be kept with that layer in float
    assert "bits=3 cannot be kept, the least is" in capsys.readouterr().err
    assert main([*argv, "--bits", "32"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert next(layer for layer in document["layers"] if layer["name"] == "stage3.conv1")["fixed"] is True


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "give a budget: --speedup 2"),
        (["--speedup", "-1"], "budget speedup must be a number above 0, got -1.0"),
        (["--bits", "2", "--from", "nowhere.json"], "nowhere.json"),
        (["--bits", "2", "--fix", "stage3.conv1"], "give LAYER=LABEL"),
        (["--bits", "2", "--data", "nowhere"], "nowhere does not exist"),
    ],
)
def test_errors_are_one_sentence(argv: list[str], message: str, capsys: pytest.CaptureFixture):
    assert main(["plan", "demo", *argv]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert len(captured.err.splitlines()) == 1


def test_other_models_need_data(tmp_path: Path, capsys: pytest.CaptureFixture):
    assert main(["plan", "torch.nn:Identity", "--bits", "2"]) == 2
    assert "calibration data is needed: --data" in capsys.readouterr().err
