"""The loss: cross-entropy with the labels, and with a teacher the distance of its outputs; and what a teacher says."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn
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


class Ensemble(nn.Module):
    """Several teachers as one: the mean of their logits, each multiplied by its factor.

        factor_i = max_j σ_j / σ_i        σ_i: standard deviation of the logits of member i over `batches`

    Networks are confident to very different degrees (a small ResNet trained to the end has σ = 8, one trained with
    label smoothing 1); a plain mean would be the answer of the loudest. The largest σ is kept, so that a temperature
    means what it does for that member alone.

    batches   images f32[b, c, h, w]

    Raises ValueError if the logits of a member do not vary over them.
    """

    def __init__(self, members: Sequence[nn.Module], batches: Iterable[Tensor]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members).eval()
        with torch.no_grad():
            logits = [torch.stack([member(images).float() for member in members]) for images in batches]
        spreads = torch.cat(logits, 1).flatten(1).std(1)
        if not (spreads > 0).all():
            raise ValueError(f"every teacher must tell images apart, got logits with σ = {spreads.tolist()}")
        self.register_buffer("factors", (spreads.max() / spreads).view(-1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """f32[b, c, h, w] → f32[b, classes]"""
        return (torch.stack([member(images).float() for member in self.members]) * self.factors).mean(0)


class TeacherOutputs:
    """What a teacher says of each view of each training image, computed once.

    views   0: nothing is kept, as every view is new        images   how many there are
    """

    def __init__(self, teacher: Callable[[Tensor], Tensor], images: int, views: int) -> None:
        self.teacher, self.images, self.views = teacher, images, views
        self.kept: dict[int, Tensor] = {}  # view → f32[images, classes], NaN where it is not known

    @torch.no_grad()
    def of(self, batch: Tensor, order: Tensor, epoch: int) -> Tensor:
        """f32[b, classes] for a batch of this epoch; order i64[b] says which images they are."""
        if not self.views:
            return self.teacher(batch).float()
        known = self.kept.get(epoch % self.views)
        if known is not None and not (found := known[order]).isnan().any():
            return found.to(batch.device)
        outputs = self.teacher(batch).float()
        if known is None:
            known = self.kept[epoch % self.views] = torch.full((self.images, outputs.shape[1]), torch.nan)
        known[order] = outputs.cpu()
        return outputs


def training_loss(output: Tensor, labels: Tensor, teacher: Tensor | None, recipe: Recipe) -> Tensor:
    """(1 - w)·CE(output, labels) + w·distillation, w = recipe.distillation; CE alone without a teacher.

    labels   i64[n], or f32[n, classes] with the part of each class
    """
    hard = F.cross_entropy(output, labels, label_smoothing=recipe.label_smoothing)
    if teacher is None:
        return hard
    soft = distillation_loss(output, teacher, recipe.temperature)
    return (1 - recipe.distillation) * hard + recipe.distillation * soft
