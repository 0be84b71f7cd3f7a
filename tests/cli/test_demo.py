"""The demo: its shipped model, a quick run as a user sees it, an interrupted one, and one real race."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

import abcfx
from abcfx.cli import demo, machine
from abcfx.cli.demo_model import WEIGHTS, DemoNet, load_demo_model
from abcfx.cli.demo_report import Results
from abcfx.cli.front import main
from abcfx.data import load
from abcfx.ops import library
from abcfx.packed import load_packed
from abcfx.train import Recipe, evaluate, train


def test_the_shipped_model_is_accurate_and_small():
    # 93.5 % of the 10,000 official test images; the shipped 2,000 have a standard error of 0.55 points
    assert evaluate(load_demo_model(), load()).accuracy > 92.0
    assert WEIGHTS.stat().st_size < 4e6


@pytest.mark.parametrize("basis", ["alternating", "coded"])
def test_a_quick_demo(tmp_path: Path, capsys: pytest.CaptureFixture, basis: str):
    assert main(["demo", "--quick", "--M", "3", "--N", "3", "--basis", basis, "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert f"{basis} weights" in " ".join(text.split())
    assert "Fashion-MNIST subset, 250 test images" in text
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["float_accuracy"] > 90
    # three bases of each kind lose less than one point on all images; 250 images have a standard error of 1.5
    assert record["calibrated_accuracy"] > record["float_accuracy"] - 4
    assert [(point["M"], point["N"]) for point in record["points"]] == list(demo.SWEEP)
    assert record["packed_bytes"] == (tmp_path / "model.abc").stat().st_size < record["float_bytes"] / 8
    assert (tmp_path / "results.png").stat().st_size > 20_000
    loaded = load_packed(tmp_path / "model.abc", DemoNet())
    assert {plan.basis for plan in abcfx.plan_of(loaded).layers.values()} == {basis}
    # the accuracy in the record belongs to the model in the file
    assert evaluate(loaded, load().first(250)).accuracy == record["calibrated_accuracy"]


def test_the_same_seed_gives_the_same_result(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(demo, "SWEEP", ((1, 1),))
    records = []
    for name in ("one", "two"):
        assert main(["demo", "--quick", "--out", str(tmp_path / name), "--seed", "3"]) == 0
        records.append((tmp_path / name / "results.json").read_text())
    capsys.readouterr()
    assert records[0] == records[1]


def test_ctrl_c_leaves_what_was_done(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.Demo, "_tuned", interrupted)
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 130
    text = capsys.readouterr().out
    assert "interrupted; this is what was done" in text
    assert "accuracy, calibrated" in text
    record = json.loads((tmp_path / "results.json").read_text())
    assert record["calibrated_accuracy"] is not None
    assert record["tuned_accuracy"] is None
    assert "model.abc" not in text.split("written to")[1]


def test_ctrl_c_before_anything(tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo.Demo, "_float_model", interrupted)
    assert main(["demo", "--quick", "--out", str(tmp_path)]) == 130
    assert "nothing was finished" in capsys.readouterr().out


def test_a_short_training_lowers_the_loss():
    data, losses = load(), []
    model = DemoNet()
    train(model, data, Recipe(epochs=0.08, learning_rate=4e-3, batch=32, optimizer="adamw"), tick=losses.append)
    assert len(losses) == 15
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    assert not model.training


def test_fine_tuning_trains_weights_and_levels():
    model = abcfx.quantize_model(load_demo_model(), 2, 2)
    data = load()
    abcfx.calibrate(model, data.calibration_batches(64), progress=False)
    before = {name: value.clone() for name, value in model.named_parameters()}
    train(model, data, Recipe(epochs=0.01, learning_rate=3e-4, batch=20, optimizer="adamw"), teacher=load_demo_model())
    still = [name for name, value in model.named_parameters() if torch.equal(value, before[name])]
    assert still == []


def a_demo() -> demo.Demo:
    """One whose steps are called by the test."""
    arguments = Namespace(batch=2, seed=0, basis="alternating")
    return demo.Demo(arguments, load().first(8), Results("images", 8, 2, 2, {}), steps=None)


def test_without_compiled_kernels_it_says_so_in_one_line(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(library, "_load", lambda: (None, "the compiled kernels are not installed"))
    shown = a_demo()
    assert shown._can_time() == (machine.cpp_compiler() is not None)
    assert shown.results.notes[0] == "The speed is not meaningful here: the compiled kernels are not installed."


def test_without_a_compiler_it_does_not_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "cpp_compiler", lambda: None)
    shown = a_demo()
    assert not shown._can_time()
    assert "C++ compiler" in shown.results.notes[-1]


def test_fine_tuning_is_shortened_on_a_slow_machine(monkeypatch: pytest.MonkeyPatch):
    shown, seconds = a_demo(), iter((107.0, 108.5, 110.0, 200.0, 200.1, 200.2))  # 1.5 s a step, then 0.1 s
    shown.float_model = load_demo_model()
    monkeypatch.setattr(demo.time, "perf_counter", lambda: next(seconds))
    monkeypatch.setattr(demo, "train", lambda *_, tick, **__: [tick(0.0) for _ in range(demo.PROBE_STEPS)])
    assert shown._affordable_epochs(shown.float_model) == pytest.approx(0.5)  # 30 of 60 steps in 45 s
    assert shown.results.notes == ["Slow or busy machine: 30 of 60 fine-tuning steps were done."]
    assert shown._affordable_epochs(shown.float_model) == 1
    assert len(shown.results.notes) == 1


def test_cifar_gets_a_model_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    rng = np.random.default_rng(0)
    labels = np.arange(160) % 10
    images = rng.integers(0, 40, (160, 32, 32, 3)) + 20 * labels[:, None, None, None]  # a class is a brightness
    arrays = {"x_train": images.astype(np.uint8), "y_train": labels}
    np.savez(tmp_path / "cifar.npz", **arrays, x_test=arrays["x_train"][:40], y_test=labels[:40])
    monkeypatch.setattr(demo, "SWEEP", ())
    monkeypatch.setattr(demo, "CIFAR_RECIPE", Recipe(1, 4e-3, batch=40, optimizer="adamw", autocast=True))
    assert main(["demo", "--quick", "--data", str(tmp_path / "cifar.npz"), "--out", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "training the float model: loss" in text
    assert "CIFAR-10, 40 test images" in text


@pytest.mark.skipif(machine.cpp_compiler() is None, reason="torch.compile needs a C++ compiler")
def test_a_race_compiles_both_models():
    shown = a_demo()
    shown.float_model = load_demo_model()
    images = shown.data.prepare(shown.data.test_x[:2])
    with torch.inference_mode():
        result = shown._race_on(images, shown._quantized(2, 2), seconds=0.05)
    assert result.batch == 2
    assert min(result.rival_ms, result.ours_ms) > 0
    torch.compiler.reset()
