import copy
import gc

import pytest
import torch
from tiny import TinyNet, quantized_net
from torch import nn

import abcfx
from abcfx.data import Dataset
from abcfx.train import Recipe, Trainer
from abcfx.train.blocks import BlockOutputs, block_distance, block_names
from abcfx.train.compiled import compiled_parts


class Stages(nn.Module):
    """conv → two blocks, the second with a shortcut in a Sequential of its own → linear"""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.stage = nn.Sequential(Block(4, 4), Block(4, 8))
        self.last = nn.Linear(8, 2)

    def forward(self, x):
        return self.last(self.stage(self.first(x)).mean((2, 3)))


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1))

    def forward(self, x):
        return torch.relu(self.conv(x) + self.shortcut(x))


def test_blocks_are_the_outermost_members_that_hold_quantized_layers():
    assert block_names(abcfx.quantize_model(Stages(), 2, 2)) == ["stage.0", "stage.1"]
    assert block_names(abcfx.quantize_model(Stages(), 2, 2, exclude=["stage.0.*"])) == ["stage.1"]
    assert block_names(quantized_net()) == ["conv2"]  # no block, one quantized layer
    assert block_names(nn.Sequential(nn.Linear(3, 3))) == []


def test_the_distance_is_the_stated_mean():
    teacher = {"a": torch.randn(4, 3, 5, 5), "b": torch.randn(4, 7)}
    student = {name: value + 0.3 * torch.randn_like(value) for name, value in teacher.items()}
    parts = [
        ((student[name][i] - teacher[name][i]) ** 2).sum() / (teacher[name][i] ** 2).sum()
        for name in "ab" for i in range(4)
    ]  # fmt: skip
    torch.testing.assert_close(block_distance(student, teacher), torch.stack(parts).mean())
    assert block_distance(teacher, teacher) == 0


def test_a_teacher_without_the_blocks_is_refused(data: Dataset) -> None:
    recipe = Recipe(1, 0.01, batch=8, follow_blocks=1.0)
    with pytest.raises(ValueError, match=r"no block 'conv2' to follow.*--follow-blocks 0"):
        Trainer(quantized_net(), data, recipe, teacher=nn.Sequential(nn.Flatten(), nn.Linear(1, 10)))


def test_a_block_without_outputs_does_not_divide_by_zero():
    assert block_distance({"a": torch.ones(2, 3)}, {"a": torch.zeros(2, 3)}).isfinite()


def test_outputs_are_kept_while_recording_only():
    model = Stages()
    blocks, x = BlockOutputs(model, ["stage.0", "stage.1"]), torch.randn(2, 3, 6, 6)
    with blocks.recording() as seen:
        model(x)
        assert torch.equal(model.last(seen["stage.1"].mean((2, 3))), model(x))
        assert list(seen) == ["stage.0", "stage.1"]
    model(x)
    assert seen == {}


def test_copies_of_the_model_can_be_made_and_hooks_go_with_their_owner():
    model = Stages()
    blocks, x = BlockOutputs(model, ["stage.0"]), torch.randn(2, 3, 6, 6)
    with blocks.recording() as seen:
        model(x)
        copied = copy.deepcopy(model)  # a tensor of a graph could not be copied
        kept = seen["stage.0"]
    copied(x)
    assert seen == {}
    assert kept.requires_grad
    assert len(model.stage[0]._forward_hooks) == 1
    del blocks
    gc.collect()
    assert len(model.stage[0]._forward_hooks) == 0


def trained(data: Dataset, weight: float, compiled: bool = False, epochs: float = 3) -> Trainer:
    torch.manual_seed(5)
    teacher = TinyNet().eval()
    model = abcfx.calibrate(abcfx.quantize_model(teacher, 1, 2), data.calibration_batches(64), progress=False)
    recipe = Recipe(epochs, 0.02, batch=16, distillation=1.0, follow_blocks=weight)
    parts = compiled_parts(model, teacher) if compiled else {"teacher": teacher}
    trainer = Trainer(model, data, recipe, **parts)
    trainer.run()
    return trainer


def distance(trainer: Trainer, data: Dataset) -> float:
    blocks = [BlockOutputs(either, ["conv2"]) for either in (trainer.model, trainer.teacher)]
    with blocks[0].recording() as student, blocks[1].recording() as teacher, torch.no_grad():
        trainer.model(data.prepare(data.test_x))
        trainer.teacher(data.prepare(data.test_x))
        return float(block_distance(student, teacher))


def test_blocks_come_closer_to_those_of_the_teacher(data: Dataset):
    assert distance(trained(data, 1.0), data) < 0.8 * distance(trained(data, 0.0), data)


@pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning")  # dynamo looks at it, and hides what it caused
def test_compiled_blocks_give_the_same_training(data: Dataset):
    eager, compiled = trained(data, 5.0, epochs=0.5), trained(data, 5.0, compiled=True, epochs=0.5)
    assert compiled.loss_sum == pytest.approx(eager.loss_sum, rel=1e-3)
    torch.testing.assert_close(compiled.model.conv2.weight, eager.model.conv2.weight, rtol=1e-3, atol=1e-4)


def test_a_model_without_quantized_layers_follows_at_its_outputs_only(data: Dataset):
    trainer = Trainer(TinyNet(), data, Recipe(1, 0.01, batch=16, follow_blocks=3.0), teacher=TinyNet())
    trainer.run()
    assert trainer.step == trainer.steps
