from __future__ import annotations

from pathlib import Path

import pytest
import torch
from rich.console import Console
from tiny import TinyNet, tiny_data

from abcfx.config import Config
from abcfx.ops.weight_cache import adopt, fitted
from abcfx.packed import load_packed, recipe_of, save_packed
from abcfx.train.finetune import FineTuning, Run
from abcfx.train.recipe import Recipe


def tuning(out: Path, config: Config, start: Path | None = None, rate: float = 0.05, epochs: float = 1) -> FineTuning:
    torch.manual_seed(3)
    how = Run(out, start=start, calibration=64)
    return FineTuning("tiny", TinyNet(), tiny_data(), config, Recipe(epochs, rate, 16), how, Console(quiet=True))


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The checkpoint of a (3, 3) run."""
    tuning(tmp_path / "earlier", Config(3, 3)).run()
    return tmp_path / "earlier" / "checkpoint.pt"


def test_the_same_bases_go_on_where_the_earlier_run_ended(tmp_path: Path, earlier: Path):
    state = torch.load(earlier)["trainer"]["model"]
    model = tuning(tmp_path / "next", Config(3, 3), earlier).calibrated(Config(3, 3))
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_fewer_bases_take_the_weights_and_are_calibrated(tmp_path: Path, earlier: Path):
    state = torch.load(earlier)["trainer"]["model"]
    model = tuning(tmp_path / "next", Config(1, 2), earlier).calibrated(Config(1, 2))
    loaded = model.state_dict()
    for key in ("conv1.weight", "conv2.weight", "linear.bias", "norm.running_mean"):
        assert torch.equal(loaded[key], state[key])
    assert model.conv2.calibrated
    assert not torch.equal(loaded["conv2.activation_scale"], state["conv2.activation_scale"])


@pytest.mark.parametrize("suffix", ["checkpoint.pt", "model.abc"])
def test_another_kind_of_bases_takes_the_levels(tmp_path: Path, earlier: Path, suffix: str):
    """But not the scales that the fit of the others starts from: the new ones double."""
    config, state = Config(3, 3, "coded"), torch.load(earlier)["trainer"]["model"]
    model = tuning(tmp_path / "next", config, earlier.parent / suffix).calibrated(config)
    torch.testing.assert_close(model.conv2.activation_scale, state["conv2.activation_scale"])
    assert model.conv2.calibrated
    with torch.enable_grad():
        _, scales, _ = fitted(model.conv2.weight, recipe_of(model.conv2))
    assert torch.equal(scales[1:], 2 * scales[:-1])


def test_a_run_says_what_it_started_from_and_its_float_model_is_the_teacher(tmp_path: Path, earlier: Path):
    tuned = tuning(tmp_path / "next", Config(2, 2), earlier)
    before = {key: value.clone() for key, value in tuned.float_model.state_dict().items()}
    result = tuned.run()
    assert result["settings"]["start"] == str(earlier)
    assert all(torch.equal(value, before[key]) for key, value in tuned.float_model.state_dict().items())


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, earlier: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.pt does not exist"):
        tuning(tmp_path / "next", Config(2, 2), tmp_path / "nowhere.pt").run()
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "weights.pt")
    with pytest.raises(ValueError, match=r"weights.pt is not the checkpoint.pt of a training"):
        tuning(tmp_path / "next", Config(2, 2), tmp_path / "weights.pt").run()
    document = torch.load(earlier)
    document["trainer"]["model"] = {"other.weight": torch.zeros(1)}
    torch.save(document, tmp_path / "other.pt")
    with pytest.raises(ValueError, match=r"other.pt is of another network than TinyNet"):
        tuning(tmp_path / "next", Config(2, 2), tmp_path / "other.pt").run()


def test_a_packed_model_goes_on_as_it_was_saved(tmp_path: Path, earlier: Path):
    packed = earlier.parent / "model.abc"
    saved = load_packed(packed, TinyNet())
    images = tiny_data().prepare(tiny_data().test_x)
    model = tuning(tmp_path / "same", Config(3, 3), packed).calibrated(Config(3, 3)).eval()
    torch.testing.assert_close(model(images), saved(images), rtol=1e-4, atol=1e-4)
    fewer = tuning(tmp_path / "fewer", Config(2, 2), packed).calibrated(Config(2, 2))
    assert torch.equal(fewer.conv2.weight, saved.conv2.weight)
    assert fewer.conv2.calibrated
    with pytest.raises(FileNotFoundError):
        tuning(tmp_path / "none", Config(2, 2), tmp_path / "none.abc").run()


def test_one_scale_a_layer_starts_from_a_packed_model_too(tmp_path: Path):
    config = Config(2, 2, per_channel=False)
    tuning(tmp_path / "earlier", config).run()
    packed = tmp_path / "earlier" / "model.abc"
    model = tuning(tmp_path / "next", config, packed).calibrated(config)
    with torch.enable_grad():
        bases, scales, _ = fitted(model.conv2.weight, recipe_of(model.conv2))
    wanted = fitted(load_packed(packed, TinyNet()).conv2.weight, recipe_of(model.conv2))
    assert torch.equal(bases, wanted[0])
    torch.testing.assert_close(scales, wanted[1])


def test_training_starts_from_the_bases_of_a_packed_model(tmp_path: Path, earlier: Path):
    """Which a fit of the packed weights does not find again: these are random."""
    made = load_packed(earlier.parent / "model.abc", TinyNet())
    bases, scales, _ = fitted(made.conv2.weight, recipe_of(made.conv2))
    bases = torch.randn(bases.shape).sign().to(torch.int8)
    adopt(made.conv2.weight, recipe_of(made.conv2), bases, torch.rand(scales.shape))
    save_packed(made, tmp_path / "random.abc")
    model = tuning(tmp_path / "next", Config(3, 3), tmp_path / "random.abc").calibrated(Config(3, 3))
    assert torch.equal(model.conv2.weight, made.conv2.weight)
    assert not torch.equal(fitted(model.conv2.weight.detach().clone(), recipe_of(model.conv2))[0], bases)
    with torch.enable_grad():  # the fit of a training step
        assert torch.equal(fitted(model.conv2.weight, recipe_of(model.conv2))[0], bases)
