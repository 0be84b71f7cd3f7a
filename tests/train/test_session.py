from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from child import a_session

from abcfx.train.checkpoint import load_checkpoint, save_checkpoint

CHILD = Path(__file__).with_name("child.py")


def run_child(out: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, CHILD, out, *more], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(
    ("number", "code", "step"),
    # in the middle of an epoch, and at the last step of one, whose row must not be lost
    [(signal.SIGKILL, -9, 8), (signal.SIGTERM, 143, 8), (signal.SIGINT, 130, 9)],
)
def test_a_killed_run_goes_on_bit_for_bit(tmp_path: Path, number: signal.Signals, code: int, step: int):
    whole = a_session(tmp_path / "whole")
    whole.run()
    killed = run_child(tmp_path / "killed", "--kill", str(step), str(int(number)))
    assert killed.returncode == code, killed.stderr
    stopped = load_checkpoint(tmp_path / "killed" / "checkpoint.pt")
    # SIGKILL ends it before the step; the others let that step finish
    assert stopped["trainer"]["step"] == (step if number == signal.SIGKILL else step + 1)
    resumed = a_session(tmp_path / "killed")
    resumed.resume()
    resumed.run()
    for name, value in whole.trainer.model.state_dict().items():
        assert torch.equal(value, resumed.trainer.model.state_dict()[name]), name
    for mine, other in ((resumed.rows, whole.rows), (resumed.layer_rows, whole.layer_rows)):
        assert [row | {"seconds": 0} for row in mine] == [row | {"seconds": 0} for row in other]


def test_the_files(tmp_path: Path, capsys: pytest.CaptureFixture):
    session = a_session(tmp_path)
    session.goal = 95.0
    session.run()
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[-1]["test_accuracy"]) == session.rows[-1]["test_accuracy"]
    assert list(rows[0]) == [
        "epoch", "step", "learning_rate", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds",
    ]  # fmt: skip
    with (tmp_path / "telemetry.csv").open() as file:
        layers = list(csv.DictReader(file))
    assert [(row["epoch"], row["layer"]) for row in layers] == [("1", "conv2"), ("2", "conv2"), ("3", "conv2")]
    assert {"flip_1", "flip_2", "dead_signs", "collapsed", "above", "codes_used"} <= layers[0].keys()
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "checkpoint.pt", "curves.png", "history.csv", "telemetry.csv",
    ]  # fmt: skip
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("tiny 1/3: loss ")


def test_other_settings_are_refused(tmp_path: Path):
    session = a_session(tmp_path)
    session.save()
    session.settings = {"seed": 6}
    with pytest.raises(ValueError, match="is of another training \\(seed was 5, is 6\\): give the same options"):
        session.resume()


def test_a_missing_or_damaged_checkpoint(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="there is no run to go on with"):
        load_checkpoint(tmp_path / "checkpoint.pt")
    (tmp_path / "checkpoint.pt").write_bytes(b"PK not really")
    with pytest.raises(ValueError, match="is not a checkpoint of this trainer"):
        load_checkpoint(tmp_path / "checkpoint.pt")


def test_a_failed_write_leaves_the_earlier_checkpoint(tmp_path: Path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"step": 2, "cannot": lambda: None}, path)
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]
