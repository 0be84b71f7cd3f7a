import copy

import pytest
import torch
from tiny import TinyNet, quantized_net
from torch import Tensor, nn

from abcfx.data import Dataset
from abcfx.train import Recipe, Trainer, evaluate, train
from abcfx.train.augment import Batches
from abcfx.train.loop import DivergedError

RECIPE = Recipe(5, 0.02, batch=12, weight_decay=1e-4)


def test_training_lowers_the_loss_and_raises_the_accuracy(data: Dataset):
    torch.manual_seed(0)
    model, losses = TinyNet(), []
    before = evaluate(model.eval(), data)
    train(model, data, Recipe(10, 0.05, batch=16, augment="none"), tick=losses.append)
    after = evaluate(model, data)
    assert len(losses) == 40
    assert sum(losses[-4:]) < 0.5 * sum(losses[:4])
    assert after.accuracy > max(90, before.accuracy)
    assert not model.training


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("stop", [1, 5, 7, 24])
def test_going_on_from_any_step_gives_the_same_parameters_bit_for_bit(data: Dataset, optimizer: str, stop: int):
    recipe = Recipe(5, 0.01, batch=12, optimizer=optimizer, weight_decay=1e-3)
    teacher = TinyNet()

    def a_trainer(dropout: float = 0.3) -> Trainer:
        return Trainer(quantized_net(dropout=dropout), data, recipe, seed=4, teacher=teacher)

    whole, first, second = a_trainer(), a_trainer(), a_trainer()
    whole.run()
    while first.step < stop:
        first.model.train()
        first.train_step()
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    torch.randn(100)  # whatever else used PyTorch's generator meanwhile
    second.run()
    assert second.step == whole.step == 25
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    assert second.epoch_row() == whole.epoch_row()


def test_seeds_differ(data: Dataset):
    models = [quantized_net() for _ in range(2)]
    for seed, model in enumerate(models):
        train(model, data, RECIPE, seed=seed)
    assert not torch.equal(models[0].conv2.weight, models[1].conv2.weight)


def test_everything_of_a_quantized_model_is_trained_and_the_teacher_is_not(data: Dataset):
    model, teacher = quantized_net(), TinyNet()
    before = {name: value.clone() for name, value in model.named_parameters()}
    taught = copy.deepcopy(teacher.state_dict())
    train(model, data, RECIPE, teacher=teacher)
    assert [name for name, value in model.named_parameters() if torch.equal(value, before[name])] == []
    assert all(torch.equal(value, taught[name]) for name, value in teacher.state_dict().items())


def test_the_teacher_is_followed(data: Dataset):
    """Labels alone and a teacher that contradicts them lead to different models."""
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    nn.init.zeros_(wrong[1].weight)
    with torch.no_grad():
        wrong[1].bias.copy_(torch.tensor([9.0, 0, 0, 0]))
    model = TinyNet()
    train(model, data, Recipe(5, 0.05, batch=16, distillation=1.0), teacher=wrong)
    with torch.inference_mode():
        chosen = model(data.prepare(data.test_x)).argmax(1)
    assert (chosen == 0).all()


def test_the_rows_of_an_epoch(data: Dataset):
    trainer = Trainer(TinyNet(), data, Recipe(1.4, 0.1, batch=12, warmup=0))
    losses, ends = [], []
    trainer.run(lambda loss: (losses.append(loss), ends.append(trainer.epoch_ended)))
    assert [step for step, end in enumerate(ends, 1) if end] == [5, 7]
    row = trainer.epoch_row()
    assert row["epoch"] == 2
    assert row["step"] == 7
    assert row["train_loss"] == pytest.approx(sum(losses[5:]) / 2)
    assert 0 <= row["train_accuracy"] <= 100
    assert row["learning_rate"] == trainer.recipe.rate(6, 7)


def test_all_images_of_an_epoch_are_different(data: Dataset):
    batches = Batches(data, Recipe(1, 0.1, batch=16, augment="none"), 0)
    assert torch.cat([batches.at(step).images for step in range(4)]).flatten(1).unique(dim=0).shape == (64, 64)


def test_the_teacher_sees_each_view_once(data: Dataset):
    teacher, calls = TinyNet(), []
    teacher.register_forward_hook(lambda *_: calls.append(1))
    recipe = Recipe(5, 0.1, batch=16, views=2, distillation=1.0)
    losses: list[float] = []
    trainer = Trainer(quantized_net(), data, recipe, teacher=teacher)
    trainer.run(losses.append)
    assert len(calls) == 2 * 4  # of 5 epochs of 4 steps

    def unkept(batch: Tensor, order: Tensor, epoch: int) -> Tensor:
        with torch.no_grad():
            return teacher(batch)

    other = Trainer(quantized_net(), data, recipe, teacher=teacher)
    other.teacher_outputs.of = unkept
    again: list[float] = []
    other.run(again.append)
    assert again == pytest.approx(losses, rel=1e-4)


def test_what_the_teacher_said_is_part_of_the_state(data: Dataset):
    recipe = Recipe(4, 0.1, batch=16, views=1, distillation=1.0)
    trainer = Trainer(quantized_net(), data, recipe, teacher=TinyNet())
    for _ in range(4):
        trainer.train_step()
    other = Trainer(quantized_net(), data, recipe, teacher=trainer.teacher)
    other.load_state_dict(copy.deepcopy(trainer.state_dict()))
    other.teacher.register_forward_hook(lambda *_: pytest.fail("the teacher ran again"))
    assert other.train_step() > 0


def test_a_teacher_whose_blocks_are_followed_runs_in_every_step(data: Dataset):
    recipe = Recipe(1, 0.1, batch=16, views=1, follow_blocks=1.0)
    assert Trainer(quantized_net(), data, recipe, teacher=TinyNet()).teacher_outputs.views == 0


def test_the_schedule_reaches_the_optimizer(data: Dataset):
    recipe = Recipe(1, 0.1, batch=16, weight_rate=3.0, level_rate=0.25)
    trainer = Trainer(quantized_net(), data, recipe)
    trainer.train_step()
    assert [group["lr"] for group in trainer.optimizer.param_groups] == pytest.approx([0.3, 0.1, 0.1, 0.025])
    trainer.train_step()
    assert trainer.optimizer.param_groups[1]["lr"] == recipe.rate(1, 4) < 0.1


def test_steps_of_levels_stay_positive(data: Dataset):
    model = quantized_net()
    trainer = Trainer(model, data, Recipe(1, 0.1, batch=16))
    with torch.no_grad():
        model.conv2.activation_scale.fill_(1e-7)
    trainer.train_step()
    assert float(model.conv2.activation_scale.detach()) > 0.99e-6  # SMALLEST_STEP in f32


def test_a_loss_that_is_no_number_stops_the_training(data: Dataset):
    model = TinyNet()
    with torch.no_grad():
        model.linear.bias.fill_(torch.inf)
    with pytest.raises(DivergedError, match=r"the loss is nan at step 0: lower the learning rate \(0\.02\)"):
        train(model, data, RECIPE)
    assert not model.training


def test_another_forward_is_used(data: Dataset):
    model, calls = TinyNet(), []

    def forward(images: Tensor) -> Tensor:
        calls.append(len(images))
        return model(images)

    Trainer(model, data, Recipe(1, 0.1, batch=16), forward=forward).run()
    assert calls == [16] * 4


def test_a_compiled_model_is_trained(data: Dataset):
    """It shares the parameters of the model; of a model without a length its truth value is an error."""
    model = quantized_net()
    before = model.conv1.weight.detach().clone()
    trainer = Trainer(model, data, Recipe(1, 0.1, batch=16), forward=torch.compile(model, backend="eager"))
    trainer.run()
    assert trainer.step == 4
    assert not torch.equal(model.conv1.weight, before)
