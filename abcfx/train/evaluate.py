"""Accuracy and loss on the test images, and the statistics of batch norm taken again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from abcfx.data import Dataset
from abcfx.train.distributed import ALONE, Ranks


@dataclass(frozen=True)
class Score:
    """accuracy  percent of the test images put in their class        loss  mean cross-entropy"""

    accuracy: float
    loss: float


def evaluate(
    model: Callable[[Tensor], Tensor], data: Dataset, tick: Callable[[], None] = lambda: None, ranks: Ranks = ALONE
) -> Score:
    """Run the test images through `model`, which must be in eval mode; `tick` is called after each batch.

    ranks   processes that share the batches; all of them get the score of all images
    """
    right, loss = 0, 0.0
    with torch.inference_mode():
        for number, (images, labels) in enumerate(data.test_batches()):
            if number % ranks.world != ranks.rank:
                continue
            output = model(images).float()
            right += int((output.argmax(1) == labels).sum())
            loss += float(F.cross_entropy(output, labels, reduction="sum"))
            tick()
    right, loss = ranks.sums(right, loss)
    return Score(100 * right / len(data.test_y), loss / len(data.test_y))


def reestimate_batch_norm(model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set the running mean and variance of every batch norm to their averages over `batches` (at least one).

    While training they are moving averages over weights that were still changing; the bases of a quantized weight jump
    at once, and the averages lag behind. Only batch norm runs in training mode, so dropout stays off. The mode of each
    module is restored. Source: Sun et al. 2019, "Hybrid 8-bit Floating Point (HFP8)", section 3.3.
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    modes = {module: module.training for module in model.modules()}
    momenta = [norm.momentum for norm in norms]
    model.eval()
    try:
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain average over all batches
            norm.train()
        with torch.no_grad():
            for images in batches:
                model(images)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        for module, training in modes.items():
            module.training = training
