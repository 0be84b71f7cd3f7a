"""The examples run as a user starts them, on images and weights made here."""

import json

import numpy as np
import pytest
import torch


@pytest.fixture
def example(script):
    return script("resnet20_grid")


@pytest.fixture
def files(tmp_path, example):
    """A checkpoint with the prefix that DataParallel adds, and 40 + 20 random images."""
    state = {f"module.{name}": value for name, value in example.resnet20().state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 10.0}, tmp_path / "weights.th")
    rng = np.random.default_rng(0)
    images = {f"x_{part}": rng.integers(0, 256, (n, 3, 32, 32), np.uint8) for part, n in (("train", 40), ("test", 20))}
    labels = {f"y_{part}": rng.integers(0, 10, n) for part, n in (("train", 40), ("test", 20))}
    np.savez(tmp_path / "cifar.npz", **images, **labels)
    return ["--weights", str(tmp_path / "weights.th"), "--data", str(tmp_path / "cifar.npz")]


def test_grid(tmp_path, example, files, capsys):
    out = tmp_path / "results" / "grid"
    example.main([*files, "--bases", "1", "8", "--limit", "16", "--calibration", "32", "--out", str(out)])
    found = json.loads(out.with_suffix(".json").read_text())
    assert found["images"] == 16
    assert [(cell["M"], cell["N"]) for cell in found["grid"]] == [(1, 1), (1, 8), (8, 1), (8, 8)]
    assert all(0 <= cell["accuracy"] <= 100 for cell in found["grid"])
    # eight bases each are nearly exact: random logits put at most one of the 16 images into another class
    assert abs(found["grid"][-1]["accuracy"] - found["float"]) <= 100 / 16
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    assert "M = 8" in capsys.readouterr().out


def test_checkpoint_is_loaded(example, files):
    torch.manual_seed(1)
    model = example.resnet20()
    example.load_checkpoint(model, files[1])
    saved = torch.load(files[1], weights_only=True)["state_dict"]
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved[f"module.{name}"])
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({1: "missing.th"}, "missing.th does not exist: give a file saved by torch.save"),
        ({3: "missing"}, "missing does not exist: unpack cifar-10-python.tar.gz"),
    ],
)
def test_what_is_missing_is_one_sentence(example, files, change, message):
    arguments = [change.get(i, argument) for i, argument in enumerate(files)]
    with pytest.raises(SystemExit, match=message):
        example.main(arguments)


def test_a_checkpoint_of_another_model(tmp_path, example, files):
    torch.save({"linear.weight": torch.zeros(10, 5)}, tmp_path / "other.th")
    with pytest.raises(SystemExit, match=r"other\.th does not fit this model"):
        example.main(["--weights", str(tmp_path / "other.th"), *files[2:]])


def test_level_errors(script, capsys):
    level_errors = script("level_errors")
    w = torch.randn(8, 512)
    assert level_errors.weight_error(w, 4, "alternating") < level_errors.weight_error(w, 2, "alternating") < 0.2
    assert level_errors.activation_error(w, 4, "coded") < level_errors.activation_error(w, 2, "coded") < 0.2
    level_errors.print_table(level_errors.Console(), "errors", {"some": [0.5**i for i in range(8)]})
    assert "some" in capsys.readouterr().out
