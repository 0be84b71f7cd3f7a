"""The training loop: one step after another, from any position to any other, exactly."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from abcfx.data import Dataset
from abcfx.layers import ABCLayer
from abcfx.ops.warm_start import restore_warm_starts, warm_starts
from abcfx.train.augment import Batch, Batches
from abcfx.train.blocks import BlockOutputs, Distance, block_distance, block_names, require_blocks
from abcfx.train.distill import TeacherOutputs, training_loss
from abcfx.train.distributed import ALONE, Ranks
from abcfx.train.precision import rounded_products
from abcfx.train.recipe import Recipe, make_optimizer

SMALLEST_STEP = 1e-6  # of coded activation levels: 1/Δ is computed, and a negative Δ would turn the codes around


def train(
    model: nn.Module,
    data: Dataset,
    recipe: Recipe,
    *,
    seed: int = 0,
    teacher: nn.Module | None = None,
    tick: Callable[[float], None] = lambda loss: None,
) -> None:
    """Train in place from the first step to the last, without checkpoints; `tick(loss)` after each step."""
    Trainer(model, data, recipe, seed=seed, teacher=teacher).run(tick)


class DivergedError(RuntimeError):
    """The loss is not a number any more."""


class Trainer:
    """Trains `model` in place on `data`. Its state: the model, the optimizer, `step`, and sums of the epoch.

    What is random is a function of (seed, step): the order and the augmentation of the images come from
    Draws.of_epoch(seed, epoch), and PyTorch's own generator is seeded anew before each step. With the scales that the
    next weight fits start from (abcfx.warm_starts), a training that goes on from its state at any step gives the same
    parameters, bit for bit, as one that was never interrupted.

    teacher   a float model whose outputs are followed; run in eval mode, never trained
    forward   what to call instead of `model`, for instance its compiled form, which shares its parameters
    distance  what to call instead of blocks.block_distance, likewise
    ranks     the processes that share each batch (distributed.py); recipe.batch is that of all together

    Raises DivergedError, naming the step, when the loss becomes NaN or infinite.
    """

    def __init__(
        self,
        model: nn.Module,
        data: Dataset,
        recipe: Recipe,
        *,
        seed: int = 0,
        teacher: nn.Module | None = None,
        forward: Callable[[Tensor], Tensor] | None = None,
        distance: Distance = block_distance,
        ranks: Ranks = ALONE,
    ) -> None:
        ranks.check_batch(recipe.batch)
        ranks.broadcast(model)
        self.ranks = ranks
        self.model, self.data, self.recipe, self.seed = model, data, recipe, seed
        self.teacher = None if teacher is None else teacher.eval()
        self.forward = model if forward is None else forward  # a compiled model has no truth value
        self.distance = distance
        self.optimizer = make_optimizer(model, recipe)
        self.step = 0
        self.loss_sum, self.right = 0.0, 0  # since the epoch began
        self._blocks: list[BlockOutputs] = []  # of the model and of its teacher, if they are compared
        if self.teacher is not None and recipe.follow_blocks:
            if names := block_names(model):
                require_blocks(self.teacher, names)
                self._blocks = [BlockOutputs(either, names) for either in (model, self.teacher)]
        views = 0 if self._blocks else recipe.views  # blocks are not kept, so that the teacher has to run
        self.teacher_outputs = None if self.teacher is None else TeacherOutputs(self.teacher, len(data.train_y), views)
        self._batches = Batches(data, recipe, seed)
        self._steps_of_levels = [
            m.activation_scale for m in model.modules() if isinstance(m, ABCLayer) and m.plan.levels == "coded"
        ]

    @property
    def steps(self) -> int:
        return self.recipe.steps(len(self.data.train_y))

    @property
    def batches(self) -> int:
        """Steps of an epoch."""
        return self.recipe.batches(len(self.data.train_y))

    @property
    def epoch(self) -> int:
        """Epochs that were finished."""
        return self.step // self.batches

    @property
    def epoch_ended(self) -> bool:
        """Whether the last step ended an epoch, or the training."""
        return self.step > 0 and (self.step % self.batches == 0 or self.step == self.steps)

    def run(self, after_step: Callable[[float], None] = lambda loss: None) -> None:
        """Train to the end; after_step(loss) after each step. Leaves the model in eval mode, also when interrupted."""
        try:
            while self.step < self.steps:
                self.model.train()
                after_step(self.train_step())
        finally:
            self.model.eval()

    def train_step(self) -> float:
        """One step of the optimizer, at the rate of its place in the schedule. Returns the loss before it."""
        if self.step % self.batches == 0:
            self.loss_sum, self.right = 0.0, 0
        torch.manual_seed(hash((self.seed, self.step, self.ranks.rank)) & 0xFFFF_FFFF_FFFF)
        batch = self._batches.at(self.step, self.ranks)
        loss, output = self.forward_backward(batch)
        self.ranks.average_gradients(self.model)
        right, count = (output.argmax(1) == batch.labels).sum(), len(batch.labels)
        loss_sum, right, count = self.ranks.sums(float(loss.detach()) * count, int(right), count)
        value = loss_sum / count
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {value} at step {self.step}: lower the learning rate ({self.recipe.learning_rate:g}) or "
                f"lengthen the warm-up ({self.recipe.warmup:g} of the steps)"
            )
        rate = self.recipe.rate(self.step, self.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.optimizer.step()
        if self._steps_of_levels:
            with torch.no_grad():
                torch._foreach_clamp_min_(self._steps_of_levels, SMALLEST_STEP)
        self.loss_sum += loss_sum
        self.right += int(right)
        self.step += 1
        return value

    def forward_backward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Loss and outputs of one batch; the gradients are left in the parameters."""
        with rounded_products(self.recipe.products):
            loss, output = self.loss(batch)
            self.optimizer.zero_grad()
            loss.backward()
        return loss, output.detach()

    def loss(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """That of one batch, and the outputs."""
        followed = None
        with ExitStack() as stack:
            seen = [stack.enter_context(blocks.recording()) for blocks in self._blocks]
            with torch.autocast(batch.images.device.type, torch.bfloat16, enabled=self.recipe.autocast):
                output = self.forward(batch.images)
                if self.teacher_outputs is not None:
                    followed = self.teacher_outputs.of(batch.images, batch.order, batch.epoch)
            loss = training_loss(output.float(), batch.targets, followed, self.recipe)
            if seen:
                loss = loss + self.recipe.follow_blocks * self.distance(*seen)
        return loss, output

    def epoch_row(self) -> dict[str, Any]:
        """What the epoch so far was like on the training images."""
        images = ((self.step - 1) % self.batches + 1) * min(self.recipe.batch, len(self.data.train_y))
        return {
            "epoch": -(-self.step // self.batches),
            "step": self.step,
            "learning_rate": self.recipe.rate(max(0, self.step - 1), self.steps),
            "train_loss": self.loss_sum / images,
            "train_accuracy": 100 * self.right / images,
        }

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "warm_starts": warm_starts(self.model),
            "step": self.step,
            "loss_sum": self.loss_sum,
            "right": self.right,
            "teacher_outputs": self.teacher_outputs.kept if self.teacher_outputs else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        restore_warm_starts(self.model, state["warm_starts"])
        if self.teacher_outputs:
            self.teacher_outputs.kept = state["teacher_outputs"]
        self.step, self.loss_sum, self.right = state["step"], state["loss_sum"], state["right"]
