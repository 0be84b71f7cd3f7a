"""The training scripts run as a user starts them, on images made here and for a few steps."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import abcfx


@pytest.fixture
def scripts(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("train_cifar10")


@pytest.fixture
def tiny(scripts: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Options for a network of three layers on 24 + 12 images, in the place of a ResNet-20."""

    def net() -> nn.Sequential:
        return nn.Sequential(
            nn.Conv2d(3, 4, 3, stride=4), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU(),
            nn.Flatten(), nn.Linear(4 * 36, 10),
        )  # fmt: skip

    monkeypatch.setitem(scripts.MODELS, "resnet20", net)
    torch.save(net().state_dict(), tmp_path / "weights.th")
    rng = np.random.default_rng(0)
    arrays = {}
    for part, n in (("train", 24), ("test", 12)):
        arrays |= {f"x_{part}": rng.integers(0, 256, (n, 3, 32, 32), np.uint8), f"y_{part}": np.arange(n) % 10}
    np.savez(tmp_path / "cifar.npz", **arrays)
    return ["--weights", str(tmp_path / "weights.th"), "--data", str(tmp_path / "cifar.npz"), "--batch", "8"]


@pytest.mark.filterwarnings("ignore::abcfx.train.telemetry.TrainingWarning")
def test_two_stages_with_quantized_gradients(tmp_path: Path, scripts: ModuleType, tiny: list[str], capsys):
    out = tmp_path / "run"
    options = ["--stages", "2", "--epochs", "2", "--grad-bases", "4", "--bn-reestimate", "16", "--calibrate", "16"]
    scripts.main([*tiny, *options, "--out", str(out)])
    text = capsys.readouterr().out
    assert "resnet20 M=5 N=2 K=4 1/1: loss " in text
    assert "resnet20 M=2 N=2 K=4 2/2: loss " in text
    result = json.loads((out / "result.json").read_text())
    assert result["settings"]["grad_bases"] == 4
    assert {"float_accuracy", "calibrated_accuracy", "accuracy", "accuracy_with_new_norms"} <= result.keys()
    with (out / "history.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["3", "6"]
    packed = abcfx.load_packed(out / "model.abc", scripts.MODELS["resnet20"]())
    saved = torch.load(out / "model.pt")
    torch.testing.assert_close(packed[3].activation_scale, saved["3.activation_scale"])
    # the same command again finds the training finished, and says the same
    scripts.main([*tiny, *options, "--out", str(out), "--resume"])
    assert json.loads((out / "result.json").read_text()) == result


@pytest.mark.filterwarnings("ignore::abcfx.train.telemetry.TrainingWarning")
def test_teachers_of_other_networks(tmp_path: Path, scripts: ModuleType, tiny: list[str], capsys, monkeypatch):
    wide = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    monkeypatch.setitem(scripts.MODELS, "wrn-16-4", lambda: wide)
    torch.save(wide.state_dict(), tmp_path / "wide.pt")
    options = ["--teacher", "wrn-16-4", str(tmp_path / "wide.pt"), "--epochs", "1", "--calibrate", "8"]
    options += ["--teacher", "resnet20", str(tmp_path / "weights.th")]
    scripts.main([*tiny, *options, "--compile", "--simulate", "--autocast", "--out", str(tmp_path / "run")])
    assert "teacher: " in capsys.readouterr().out
    settings = json.loads((tmp_path / "run" / "result.json").read_text())["settings"]
    assert settings["teacher"] == [["wrn-16-4", str(tmp_path / "wide.pt")], ["resnet20", str(tmp_path / "weights.th")]]
    assert (settings["follow_blocks"], settings["simulate"], settings["autocast"]) == (0, True, True)


@pytest.mark.filterwarnings("ignore::abcfx.train.telemetry.TrainingWarning")
def test_the_blocks_of_a_single_teacher_can_be_followed(tmp_path: Path, scripts: ModuleType, tiny: list[str]):
    options = ["--teacher", "resnet20", str(tmp_path / "weights.th"), "--follow-blocks", "1", "--epochs", "1"]
    scripts.main([*tiny, *options, "--calibrate", "8", "--out", str(tmp_path / "run")])
    settings = json.loads((tmp_path / "run" / "result.json").read_text())["settings"]
    assert settings["follow_blocks"] == 1


def test_a_whitened_network_is_trained_by_its_own_recipe(tmp_path: Path, scripts: ModuleType, tiny: list[str]):
    options = ["--model", "whitened-cnn", "--float-epochs", "1", "--epochs", "0", "--calibrate", "8"]
    scripts.main([*options, *tiny[2:], "--out", str(tmp_path / "run")])
    settings = torch.load(tmp_path / "run" / "float" / "checkpoint.pt", weights_only=False)["settings"]
    assert (settings["learning_rate"], settings["batch"], settings["pad"]) == (1.5, 1024, 2)
    scripts.main([*tiny, "--teacher", "whitened-cnn", str(tmp_path / "run/float/model.pt"), "--epochs", "1",
                  "--calibrate", "8", "--out", str(tmp_path / "taught")])  # fmt: skip


def test_an_unknown_teacher_is_refused(scripts: ModuleType, tiny: list[str], capsys):
    with pytest.raises(SystemExit):
        scripts.main([*tiny, "--teacher", "wrn-1", "x.pt"])
    assert "--teacher takes a MODEL of resnet20, " in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore::abcfx.train.telemetry.TrainingWarning")
def test_without_weights_a_float_model_comes_first(tmp_path: Path, scripts: ModuleType, tiny: list[str]):
    options = ["--float-epochs", "1", "--epochs", "1", "--no-distill", "--calibrate", "8", "--limit-test", "7"]
    options += ["--compile", "--autocast"]
    scripts.main([*tiny[2:], *options, "--out", str(tmp_path / "run")])
    assert (tmp_path / "run" / "float" / "history.csv").is_file()
    scripts.MODELS["resnet20"]().load_state_dict(torch.load(tmp_path / "run" / "float" / "model.pt"))
    assert json.loads((tmp_path / "run" / "result.json").read_text())["settings"]["test_images"] == 7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["-M", "9"], r"M \(weight_bases\) must be an integer from 1 to 8, got 9"),
        (["--resume"], "there is no run to go on with"),
        (["--lr", "0"], "learning_rate must be above 0"),
        (["--weights", "missing.th"], "missing.th does not exist"),
    ],
)
def test_mistakes_are_one_sentence(tmp_path: Path, scripts: ModuleType, tiny: list[str], options: list, message: str):
    with pytest.raises(SystemExit, match=message):
        scripts.main([*tiny, "--out", str(tmp_path / "run"), *options])


def test_help(scripts: ModuleType, capsys: pytest.CaptureFixture):
    import train_fashion_mnist

    for script in (scripts, train_fashion_mnist):
        with pytest.raises(SystemExit) as done:
            script.parse(["--help"])
        assert done.value.code == 0
        text = capsys.readouterr().out
        for option in ("--grad-bases K", "--distill", "--resume", "--stages", "--data"):
            assert option in text


@pytest.mark.filterwarnings("ignore::abcfx.train.telemetry.TrainingWarning")
def test_fashion_mnist_on_the_shipped_subset(tmp_path: Path, scripts: ModuleType):
    import train_fashion_mnist

    trial = ["--limit-train", "64", "--limit-test", "40", "--batch", "32", "--calibrate", "32"]
    train_fashion_mnist.main([*trial, "--float-epochs", "1", "--epochs", "1", "--out", str(tmp_path)])
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["settings"]["M"], result["settings"]["N"]) == (3, 3)


@pytest.mark.parametrize(
    ("name", "size", "weights"),
    # parameters as published: WRN-16-4 2.75 M, WRN-28-10 36.5 M; VGG-small 4.66 M
    [("wrn_16_4", 32, 2_748_890), ("wrn_28_10", 32, 36_479_194), ("vgg_small", 32, 4_660_106), ("small_cnn", 28, None)],
)
def test_networks(scripts: ModuleType, name: str, size: int, weights: int | None):
    import models_cifar

    model = getattr(models_cifar, name)()
    count = sum(p.numel() for p in model.parameters())
    assert weights is None or count == weights
    if count < 10_000_000:
        images = torch.zeros(2, 1 if name == "small_cnn" else 3, size, size)
        assert model(images).shape == (2, 10)
