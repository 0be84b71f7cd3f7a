"""`python -m abcfx bench step`: a whole training step, on bits and simulated, against float."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from abcfx.cli.front import main
from abcfx.ops import library

pytestmark = pytest.mark.skipif(not library.loaded(), reason=f"{library.problem()}")
MODEL = '''
from torch import nn
def tiny():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.Flatten(), nn.Linear(256, 4))
'''


def test_both_kinds_of_step_are_raced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    (tmp_path / "tiny_step.py").write_text(MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch._dynamo.reset()
    options = ["--input", "2,3,8,8", "--bases", "2,2,0", "1,1,4", "--rivals", "f32", "--seconds", "0.1", "--simulate"]
    assert main(["bench", "step", "tiny_step:tiny", *options, "--json", str(tmp_path / "step.json")]) == 0
    text = capsys.readouterr().out
    found = json.loads((tmp_path / "step.json").read_text())["measurements"][0]
    parts = [(entry["bases"], entry["part"]) for entry in found["entries"]]
    assert parts == [([2, 2, 0], "step"), ([2, 2, 0], "simulated step"), ([1, 1, 4], "step")]
    assert all(entry["ratios"]["f32"]["median"] > 0 for entry in found["entries"])
    assert text.count("simulated step") == 1
