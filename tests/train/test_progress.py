"""The progress display where the output is a file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from abcfx.train import progress


def shown(every: float, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(progress, "PRINT_EVERY_S", every)
    console = Console(file=io.StringIO(), width=100)
    with progress.Steps(console) as steps, steps.step("epoch 1/2", 3) as step:
        for _ in range(3):
            step.tick_loss(0.5)
        step.result = "test 90 %"
    return console.file.getvalue().splitlines()


def test_a_log_shows_how_far_a_long_step_is(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = shown(0.0, monkeypatch)
    assert lines[:3] == [f"epoch 1/2: {done} of 3  loss 0.50" for done in (1, 2, 3)]
    assert lines[3].startswith("epoch 1/2: test 90 % (")


def test_a_short_step_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(shown(60.0, monkeypatch)) == 1
