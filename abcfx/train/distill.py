"""The loss: cross-entropy with the labels, and with a teacher the distance of its outputs."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from abcfx.train.recipe import Recipe


def distillation_loss(student: Tensor, teacher: Tensor, temperature: float = 3.0) -> Tensor:
    """T²·KL(softmax(teacher/T) ‖ softmax(student/T)), the mean over the batch.

    student, teacher   f32[n, classes] logits        →   f32[]

    T² keeps the gradient's size when T changes: that of the two softmaxes falls with 1/T².
    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2.
    """
    divergence = F.kl_div(
        F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
    return temperature**2 * divergence


def training_loss(output: Tensor, labels: Tensor, teacher: Tensor | None, recipe: Recipe) -> Tensor:
    """(1 - w)·CE(output, labels) + w·distillation, w = recipe.distillation; CE alone without a teacher."""
    hard = F.cross_entropy(output, labels, label_smoothing=recipe.label_smoothing)
    if teacher is None:
        return hard
    soft = distillation_loss(output, teacher, recipe.temperature)
    return (1 - recipe.distillation) * hard + recipe.distillation * soft
