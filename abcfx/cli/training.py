"""Accuracy and a short training loop: what the demo needs and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abcfx.data import Dataset

SHORTEST_CYCLE = 10  # steps that a one-cycle schedule needs to have a rise and a fall


@dataclass(frozen=True)
class Recipe:
    """`epochs` over the training images with AdamW and a one-cycle learning rate.

    autocast   bfloat16 arithmetic with float32 weights; twice as fast where the processor has it
    """

    epochs: float
    learning_rate: float
    batch: int = 128
    weight_decay: float = 0.0
    autocast: bool = False
    flip: bool = True
    pad: int = 2
    warmup: float = 0.25

    def steps(self, images: int) -> int:
        return max(1, round(self.epochs * images / self.batch))


def accuracy(model: Callable[[Tensor], Tensor], data: Dataset, tick: Callable[[], None] = lambda: None) -> float:
    """Percent of the test images put in their class; `tick` is called after each batch of 250."""
    right = 0
    with torch.inference_mode():
        for images, labels in data.test_batches():
            right += int((model(images).argmax(1) == labels).sum())
            tick()
    return 100 * right / len(data.test_y)


def augment(images: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """One random shift of up to `pad` pixels for the batch, and a mirror image of half of it."""
    height, width = images.shape[-2:]
    if recipe.pad:
        padded = F.pad(images, [recipe.pad] * 4)
        top, left = torch.randint(2 * recipe.pad + 1, (2,), generator=generator).tolist()
        images = padded[..., top : top + height, left : left + width]
    if recipe.flip:
        mirror = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
        images = torch.where(mirror, images.flip(-1), images)
    return images.contiguous(memory_format=torch.channels_last)


def endless_batches(data: Dataset, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
    """Prepared training batches, a new order in each epoch, the incomplete last one dropped."""
    while True:
        for chosen in torch.randperm(len(data.train_y), generator=generator).split(size):
            if len(chosen) == min(size, len(data.train_y)):
                yield data.prepare(data.train_x[chosen]), data.train_y[chosen]


def distillation_loss(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float = 3.0) -> Tensor:
    """½·CE(student, labels) + ½·T²·KL(softmax(teacher/T) ‖ softmax(student/T)).

    Source: Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network".
    """
    soft = F.kl_div(
        F.log_softmax(student / temperature, 1), F.log_softmax(teacher / temperature, 1),
        reduction="batchmean", log_target=True,
    )  # fmt: skip
    return 0.5 * F.cross_entropy(student, labels) + 0.5 * temperature**2 * soft


def train(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    teacher: nn.Module | None = None,
    tick: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train in place and leave the model in eval mode, also when interrupted; `tick(loss)` after each step.

    teacher: a float model whose outputs the student follows; its own parameters are not trained.
    """
    generator = torch.Generator().manual_seed(seed)
    batches = endless_batches(data, recipe.batch, generator)
    steps = recipe.steps(len(data.train_y))
    decay = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    other = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": recipe.weight_decay}, {"params": other, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.learning_rate, total_steps=max(steps + 1, SHORTEST_CYCLE), pct_start=recipe.warmup
    )
    model.train()
    try:
        for _ in range(steps):
            images, labels = next(batches)
            images = augment(images, recipe, generator)
            with torch.autocast("cpu", torch.bfloat16, enabled=recipe.autocast):
                output = model(images)
            if teacher is None:
                loss = F.cross_entropy(output.float(), labels)
            else:
                with torch.no_grad():
                    loss_target = teacher(images)
                loss = distillation_loss(output.float(), loss_target, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            tick(float(loss.detach()))
    finally:
        model.eval()
