import torch
from tiny import TinyNet, quantized_net

import abcfx
from abcfx.data import Dataset
from abcfx.ops.warm_start import restore_warm_starts, warm_starts
from abcfx.train import Recipe, Trainer
from abcfx.train.bases import trained_copy


def test_the_copy_computes_what_the_next_training_step_would(data: Dataset):
    model = quantized_net(norm=False)
    Trainer(model, data, Recipe(10, 0.05, batch=16)).run()
    starts = {name: start.clone() for name, start in warm_starts(model).items()}
    # a start that a fit from scratch does not come to
    (name,) = starts
    restore_warm_starts(
        model, {name: torch.cat([starts[name][:-1] * torch.tensor([[1.0], [-3.0]]), starts[name][-1:] * 1e3])}
    )
    images = data.prepare(data.test_x)
    copied = trained_copy(model)
    training = model(images).detach()  # with gradients: as in a training step
    with torch.no_grad():
        torch.testing.assert_close(copied(images), training)
        assert torch.allclose(model(images), training, rtol=1e-3)
    assert not copied.training


def test_training_goes_on_as_without_it(data: Dataset):
    models = [quantized_net() for _ in range(2)]
    for looked, model in enumerate(models):
        trainer = Trainer(model, data, Recipe(3, 0.05, batch=16))
        trainer.run(lambda _, looked=looked, model=model: looked and trained_copy(model) and model.train())
    for name, value in models[0].state_dict().items():
        assert torch.equal(value, models[1].state_dict()[name]), name


def test_the_packed_file_holds_these_bases(data: Dataset, tmp_path):
    model = quantized_net()
    Trainer(model, data, Recipe(3, 0.05, batch=16)).run()
    copied = trained_copy(model)
    abcfx.save_packed(copied, tmp_path / "model.abc")
    loaded = abcfx.load_packed(tmp_path / "model.abc", TinyNet())
    images = data.prepare(data.test_x)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), copied(images))
