import pytest
import torch
from torch import Tensor, nn
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


class Scaled(nn.Module):
    """Logits of a linear layer, times a number."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.linear, self.factor = nn.Linear(3, 10, bias=False), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.factor


def test_an_ensemble_says_the_mean_of_logits_as_wide_as_those_of_the_widest():
    quiet, loud = Scaled(0.1), Scaled(5.0)
    batches = torch.randn(6, 3), torch.randn(4, 3)
    spreads = [member(torch.cat(batches)).std() for member in (quiet, loud)]
    x = torch.randn(7, 3)
    expected = (quiet(x) * (spreads[1] / spreads[0]) + loud(x)) / 2
    torch.testing.assert_close(Ensemble([quiet, loud], batches)(x), expected)


def test_how_loud_a_teacher_is_does_not_matter():
    members, x = [Scaled(1.0), Scaled(1.0)], torch.randn(5, 3)
    before = Ensemble(members, [x])(x).argmax(1)
    members[0].factor = 0.01
    assert torch.equal(Ensemble(members, [x])(x).argmax(1), before)


def test_a_teacher_that_says_the_same_of_everything_is_refused():
    with pytest.raises(ValueError, match="every teacher must tell images apart"):
        Ensemble([Scaled(1.0), Scaled(0.0)], [torch.randn(5, 3)])


def test_the_parts_of_the_loss():
    output, teacher = torch.randn(2, 8, 10)
    labels = torch.arange(8)
    recipe = Recipe(1, 0.1, distillation=0.75, temperature=2.0, label_smoothing=0.1)
    hard = F.cross_entropy(output, labels, label_smoothing=0.1)
    assert training_loss(output, labels, None, recipe) == hard
    expected = 0.25 * hard + 0.75 * distillation_loss(output, teacher, 2.0)
    assert float(training_loss(output, labels, teacher, recipe)) == pytest.approx(float(expected))
