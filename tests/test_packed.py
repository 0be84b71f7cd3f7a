"""save_packed and load_packed: the same outputs, fewer bytes, and a sentence for each file that does not fit."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import abcfx
from abcfx.ops.weight_cache import WeightRecipe, dequantized, fitted
from abcfx.packed import load_packed, packable_weights, packed_bytes, save_packed
from abcfx.plan import BASES


def small_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1, groups=2), nn.ReLU(),
        nn.ConvTranspose2d(64, 32, 2, stride=2), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 96), nn.ReLU(), nn.Linear(96, 10),
    )  # fmt: skip


def images() -> Tensor:
    return torch.randn(4, 3, 8, 8)


def quantized(**options) -> nn.Module:
    model = abcfx.quantize_model(small_net().eval(), **options)
    return abcfx.calibrate(model, [images()], progress=False)


@pytest.mark.parametrize("basis", BASES)
@pytest.mark.parametrize(("M", "N", "per_channel"), [(1, 1, True), (2, 2, False), (3, 2, True), (4, 3, True)])
def test_outputs_are_identical_after_a_round_trip(tmp_path: Path, basis: str, M: int, N: int, per_channel: bool):
    model = quantized(M=M, N=N, basis=basis, per_channel=per_channel)
    save_packed(model, tmp_path / "model.abc")
    loaded = load_packed(tmp_path / "model.abc", small_net())
    x = images()
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    assert dict(abcfx.plan_of(loaded).layers) == dict(abcfx.plan_of(model).layers)


def test_a_loaded_model_can_be_saved_again(tmp_path: Path):
    model = quantized(M=4)
    save_packed(model, tmp_path / "one")
    save_packed(load_packed(tmp_path / "one", small_net()), tmp_path / "two")
    x = images()
    with torch.inference_mode():
        assert torch.equal(load_packed(tmp_path / "two", model)(x), model(x))


def test_the_architecture_is_not_changed_and_may_be_quantized(tmp_path: Path):
    model = quantized()
    save_packed(model, tmp_path / "model.abc")
    for architecture in (small_net(), quantized()):
        before = copy.deepcopy(architecture.state_dict())
        load_packed(tmp_path / "model.abc", architecture)
        assert all(torch.equal(value, before[name]) for name, value in architecture.state_dict().items())


def test_a_loaded_model_follows_its_weights_when_they_change(tmp_path: Path):
    save_packed(quantized(M=3), tmp_path / "model.abc")
    loaded = load_packed(tmp_path / "model.abc", small_net())
    x = images()
    with torch.no_grad():
        before = loaded(x)
        loaded[9].weight.mul_(0.5)
        assert not torch.equal(loaded(x), before)
        recipe = WeightRecipe(3, "alternating", True)
        assert torch.equal(dequantized(loaded[9].weight, recipe), dequantized(loaded[9].weight.clone(), recipe))


def test_adopted_bases_survive_another_memory_format(tmp_path: Path):
    model = quantized(M=4)
    save_packed(model, tmp_path / "model.abc")
    loaded = load_packed(tmp_path / "model.abc", small_net()).to(memory_format=torch.channels_last)
    recipe = WeightRecipe(4, "alternating", True, False, 2)
    (bases, scales, _), (adopted_bases, adopted_scales, _) = (fitted(m[3].weight, recipe) for m in (model, loaded))
    assert torch.equal(adopted_bases, bases)
    assert torch.equal(adopted_scales, scales)


def test_planes_take_m_bits_a_weight():
    model = quantized(M=2)
    layer = model[9]
    assert packed_bytes(layer) == 2 * 96 * 128 // 8 + 4 * 2 * 96


def test_the_file_holds_planes_instead_of_float_weights(tmp_path: Path):
    wide = nn.Sequential(nn.Linear(8, 512), nn.Linear(512, 512), nn.Linear(512, 8)).eval()
    model = abcfx.calibrate(abcfx.quantize_model(wide, M=2, N=2), [torch.randn(16, 8)], progress=False)
    save_packed(model, tmp_path / "packed")
    torch.save(wide.state_dict(), tmp_path / "float")
    planes = 2 * 512 * 512 // 8 + 4 * 2 * 512
    rest = (tmp_path / "float").stat().st_size - 4 * 512 * 512
    # the container of torch.save names and aligns each tensor: well below 10 kB for these few
    assert planes < (tmp_path / "packed").stat().st_size < planes + rest + 10_000


def test_a_weight_that_an_embedding_shares_stays_float(tmp_path: Path):
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(40, 32)
            self.first, self.middle, self.output = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 40, bias=False)
            self.output.weight = self.embedding.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.output(self.middle(self.first(self.embedding(tokens))))

    tokens = torch.randint(40, (4, 6))
    model = abcfx.quantize_model(Tied().eval(), include=["middle", "output"])
    abcfx.calibrate(model, [tokens], progress=False)
    assert set(packable_weights(model)) == {id(model.middle.weight)}
    save_packed(model, tmp_path / "model.abc")
    loaded = load_packed(tmp_path / "model.abc", Tied())
    assert loaded.output.weight is loaded.embedding.weight
    with torch.inference_mode():
        assert torch.equal(loaded(tokens), model(tokens))


def test_a_weight_that_two_layers_share_is_stored_once(tmp_path: Path):
    def net(shared: bool) -> nn.Module:
        model = nn.Sequential(*[nn.Linear(256, 256, bias=False) for _ in range(4)])
        if shared:
            model[2].weight = model[1].weight
        return model

    sizes = []
    for shared in (True, False):
        model = abcfx.calibrate(abcfx.quantize_model(net(shared).eval()), [torch.randn(8, 256)], progress=False)
        save_packed(model, tmp_path / "model.abc")
        sizes.append((tmp_path / "model.abc").stat().st_size)
        x = torch.randn(2, 256)
        with torch.inference_mode():
            assert torch.equal(load_packed(tmp_path / "model.abc", net(shared))(x), model(x))
    assert sizes[1] - sizes[0] >= 2 * 256 * 256 // 8


def test_an_uncalibrated_model_is_refused(tmp_path: Path):
    with pytest.raises(abcfx.NotCalibratedError):
        save_packed(abcfx.quantize_model(small_net()), tmp_path / "model.abc")


def test_a_float_model_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="was not made by abcfx.quantize_model"):
        save_packed(small_net(), tmp_path / "model.abc")


def _text(path: Path) -> None:
    path.write_text("no model")


def _state_dict(path: Path) -> None:
    torch.save(small_net().state_dict(), path)


def _newer(path: Path) -> None:
    document = torch.load(path)
    torch.save(document | {"abcfx_packed": 99}, path)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_text, "is not a packed model of abcfx"),
        (_state_dict, "abcfx.save_packed writes them"),
        (_newer, "has packed format 99; this version reads 1"),
        (_cut, "is not a packed model of abcfx"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, harm, message: str):
    path = tmp_path / "model.abc"
    save_packed(quantized(), path)
    harm(path)
    with pytest.raises(ValueError, match=message):
        load_packed(path, small_net())


def test_another_plan_is_refused(tmp_path: Path):
    save_packed(quantized(M=2), tmp_path / "model.abc")
    with pytest.raises(ValueError, match="was saved with another plan for 3"):
        load_packed(tmp_path / "model.abc", quantized(M=3))


def test_another_architecture_is_refused(tmp_path: Path):
    save_packed(quantized(), tmp_path / "model.abc")
    other = small_net()
    other.append(nn.BatchNorm1d(10))
    with pytest.raises(ValueError, match=r"does not fit this architecture: 12\."):
        load_packed(tmp_path / "model.abc", other)
