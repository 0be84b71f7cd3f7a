import pytest
import torch
from torch import nn
from torch.nn import functional as F

from abcfx.train.distill import Ensemble, distillation_loss, training_loss
from abcfx.train.recipe import Recipe


def test_distillation_is_least_at_the_teacher():
    teacher = torch.randn(6, 10)
    student = teacher.clone().requires_grad_()
    loss = distillation_loss(student, teacher)
    assert loss.abs() < 1e-6
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.abs().max() < 1e-6
    assert distillation_loss(student + torch.randn(6, 10), teacher) > 0.01


def test_distillation_is_the_stated_sum():
    student, teacher = torch.randn(2, 5, 10)
    p, q = (teacher / 4).softmax(1), (student / 4).softmax(1)
    expected = 16 * (p * (p / q).log()).sum(1).mean()
    torch.testing.assert_close(distillation_loss(student, teacher, 4.0), expected)


def test_an_ensemble_says_the_mean():
    members = [nn.Linear(3, 10), nn.Linear(3, 10)]
    x = torch.randn(4, 3)
    torch.testing.assert_close(Ensemble(members)(x), (members[0](x) + members[1](x)) / 2)


def test_the_parts_of_the_loss():
    output, teacher = torch.randn(2, 8, 10)
    labels = torch.arange(8)
    recipe = Recipe(1, 0.1, distillation=0.75, temperature=2.0, label_smoothing=0.1)
    hard = F.cross_entropy(output, labels, label_smoothing=0.1)
    assert training_loss(output, labels, None, recipe) == hard
    expected = 0.25 * hard + 0.75 * distillation_loss(output, teacher, 2.0)
    assert float(training_loss(output, labels, teacher, recipe)) == pytest.approx(float(expected))
