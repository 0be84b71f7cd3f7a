"""How to train: lengths, rates and losses, and the optimizer and learning rate that follow from them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn

from abcfx.layers.functional import owns_weight

OPTIMIZERS = ("sgd", "adamw")
PRODUCTS = ("f32", "bf16")
SCHEDULES = ("cosine", "exponential")
LAST_RATE = 1e-3  # of the highest, where it falls exponentially
AUGMENTS = ("crop", "flip", "none")
LEVELS = ("activation_scale", "activation_shift")  # the learned constants of a quantized layer


@dataclass(frozen=True)
class Recipe:
    """`epochs` over the training images; a fraction is allowed.

    optimizer         "sgd" (Nesterov, `momentum`) or "adamw"
    learning_rate     its highest value: it rises linearly over `warmup`, a part of the steps, then falls by `schedule`
    schedule          "cosine" or "exponential": as long at each power of ten, where a cosine rushes through low rates
    weight_rate       factor on the learning rate of the weights of quantized layers (docs/training.md)
    level_rate        factor on the learning rate of activation levels
    weight_decay      on the weights of convolutions and linear layers only: never on biases, batch norm or levels
    label_smoothing   of the cross-entropy with the labels
    distillation      weight of the teacher's part of the loss, where there is a teacher; the labels get the rest
    temperature       of both softmaxes in that part
    follow_blocks     weight of the distance of block outputs from those of the teacher (blocks.py); 0 for none
    augment           "crop" (a random crop after padding by `pad`, and half of them mirrored), "flip" or "none"
    cutmix            part of the images that get a patch of another one, as CutMix does it; what a teacher says of the
                      whole, or labels in proportion to the areas
    views             how many different views of each image augmentation makes, 0 for a new one in each epoch; what the
                      teacher says of a view is kept, so that it runs in the first `views` epochs only
    autocast          bfloat16 arithmetic with float32 weights; twice as fast where the processor has it
    products          "bf16": operands of float convolutions and matrix products are rounded to bfloat16 in training
                      steps, sums stay float32; as before on processors without such instructions

    Raises ValueError with the field's name for a value out of range.
    """

    epochs: float
    learning_rate: float
    batch: int = 128
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: float = 0.05
    schedule: str = "cosine"
    weight_rate: float = 1.0
    level_rate: float = 1.0
    label_smoothing: float = 0.0
    distillation: float = 0.5
    temperature: float = 3.0
    follow_blocks: float = 0.0
    augment: str = "crop"
    pad: int = 4
    cutmix: float = 0.0
    views: int = 0
    autocast: bool = False
    products: str = "f32"

    def __post_init__(self) -> None:
        for name, known in (
            ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES), ("augment", AUGMENTS), ("products", PRODUCTS)
        ):  # fmt: skip
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}")
        for name in ("warmup", "label_smoothing", "distillation", "momentum", "cutmix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be from 0 to 1, got {getattr(self, name)!r}")
        for name in ("learning_rate", "batch", "temperature"):
            if not (getattr(self, name) > 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)!r}")
        for name in ("epochs", "weight_decay", "weight_rate", "level_rate", "follow_blocks", "pad", "views"):
            if not (getattr(self, name) >= 0 and math.isfinite(getattr(self, name))):
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)!r}")

    def batches(self, images: int) -> int:
        """Steps of one epoch: the incomplete last batch is left out, other images fall into it in each epoch."""
        return max(1, images // self.batch)

    def steps(self, images: int) -> int:
        """Steps of the whole training; at least one, unless `epochs` is 0."""
        return max(1, round(self.epochs * self.batches(images))) if self.epochs else 0

    def rate(self, step: int, steps: int) -> float:
        """The learning rate at `step` of `steps`: a function of the position alone, so that nothing has to be kept.

        lr · (step + 1) / W  for the W = ⌊warmup·steps⌋ first steps,  then with t = (step - W) / (steps - W)
        lr · ½(1 + cos(π·t))  or  lr · LAST_RATE^t
        """
        rising = int(self.warmup * steps)
        if step < rising:
            return self.learning_rate * (step + 1) / rising
        part = (step - rising) / max(1, steps - rising)
        fallen = LAST_RATE**part if self.schedule == "exponential" else 0.5 * (1 + math.cos(math.pi * part))
        return self.learning_rate * fallen


def parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict]:
    """Groups for an optimizer: weights, what does not decay, and activation levels; and before these the weights of
    quantized layers alone, where they have another rate.

    `factor` is what the learning rate of the group is multiplied by.
    """
    apart = [layer.weight for layer in model.modules() if owns_weight(layer)] if recipe.weight_rate != 1 else []
    own_rate = {id(weight) for weight in apart}
    decayed, quantized, other, levels = [], [], [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.rpartition(".")[-1] in LEVELS:
            levels.append(parameter)
        elif id(parameter) in own_rate:
            quantized.append(parameter)
        else:
            (decayed if parameter.ndim > 1 else other).append(parameter)
    first = {"params": quantized, "weight_decay": recipe.weight_decay, "factor": recipe.weight_rate}
    return [
        *([first] if own_rate else []),
        {"params": decayed, "weight_decay": recipe.weight_decay, "factor": 1.0},
        {"params": other, "weight_decay": 0.0, "factor": 1.0},
        {"params": levels, "weight_decay": 0.0, "factor": recipe.level_rate},
    ]


def make_optimizer(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    groups = [group for group in parameter_groups(model, recipe) if group["params"]]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.learning_rate)
    nesterov = recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=nesterov)
