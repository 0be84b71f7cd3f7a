"""Random crops and mirror images, a draw of its own for each image, on bytes; and the batches made of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from abcfx.data import Dataset
from abcfx.train.distributed import ALONE, Ranks
from abcfx.train.recipe import Recipe


@dataclass(frozen=True)
class Draws:
    """What is random in one epoch over n images: the order in which they come, and what is done to each.

    order  i64[n]   a permutation        top, left  i64[n]  in 0 … 2·pad        mirror  bool[n]
    """

    order: Tensor
    top: Tensor
    left: Tensor
    mirror: Tensor

    @classmethod
    def of_epoch(cls, images: int, recipe: Recipe, seed: int, epoch: int) -> Draws:
        """The same for the same (seed, epoch): a run that goes on in the middle of an epoch needs no other state.

        With recipe.views, what is done to an image is a function of (seed, epoch mod views) and comes again.
        """
        generator = torch.Generator().manual_seed((seed << 20) + epoch)
        order = torch.randperm(images, generator=generator)
        if recipe.views:
            generator.manual_seed((seed << 20) + (1 << 19) + epoch % recipe.views)
        top, left = torch.randint(2 * recipe.pad + 1, (2, images), generator=generator)
        mirror = torch.rand(images, generator=generator) < 0.5
        if recipe.views:
            top, left, mirror = top[order], left[order], mirror[order]
        if recipe.augment != "crop":
            top, left = torch.full_like(top, recipe.pad), torch.full_like(left, recipe.pad)
        if recipe.augment == "none":
            mirror = torch.zeros_like(mirror)
        return cls(order, top, left, mirror)

    def batch(self, places: slice) -> Draws:
        """The part of the epoch at these places of its order."""
        return Draws(self.order[places], self.top[places], self.left[places], self.mirror[places])


def augment(images: Tensor, draws: Draws, pad: int) -> Tensor:
    """y[b, c, i, j] = padded[b, c, i + top_b, j + left_b], then mirrored in j where mirror_b.

    images  u8[b, c, h, w]    padded with `pad` zeros (black) on each side, as the official recipes do before they
                              normalize
    →       u8[b, c, h, w]
    Source: He, Zhang, Ren, Sun 2016, section 4.2 (pad 4, crop 32x32, horizontal flip).
    """
    height, width = images.shape[-2:]
    if pad:
        windows = F.pad(images, [pad] * 4).unfold(2, height, 1).unfold(3, width, 1)
        images = windows[torch.arange(len(images)), :, draws.top, draws.left]
    return torch.where(draws.mirror.to(images.device).view(-1, 1, 1, 1), images.flip(-1), images)


def prepared(data: Dataset, draws: Draws, recipe: Recipe) -> Tensor:
    """f32[b, c, h, w]: the training images of `draws`, augmented and normalized."""
    return data.prepare(augment(data.train_x[draws.order], draws, recipe.pad if recipe.augment == "crop" else 0))


class Batch(NamedTuple):
    """images f32[b, c, h, w] augmented and normalized; labels i64[b]; order i64[b]: which training images they are"""

    images: Tensor
    labels: Tensor
    order: Tensor
    epoch: int


class Batches:
    """The batches of a training: each a function of (seed, step), so that nothing has to be kept of them."""

    def __init__(self, data: Dataset, recipe: Recipe, seed: int) -> None:
        self.data, self.recipe, self.seed = data, recipe, seed
        self._drawn: tuple[int, Draws] | None = None

    def at(self, step: int, ranks: Ranks = ALONE) -> Batch:
        """That of a step; of several processes, the part that this one takes."""
        images, size = len(self.data.train_y), self.recipe.batch
        epoch, batch = divmod(step, self.recipe.batches(images))
        if self._drawn is None or self._drawn[0] != epoch:
            self._drawn = epoch, Draws.of_epoch(images, self.recipe, self.seed, epoch)
        draws = self._drawn[1].batch(ranks.part(batch * size, min((batch + 1) * size, images)))
        return Batch(prepared(self.data, draws, self.recipe), self.data.train_y[draws.order], draws.order, epoch)


def augmented_batches(data: Dataset, recipe: Recipe, seed: int, images: int) -> Iterator[Tensor]:
    """About `images` training images as training sees them, in whole batches; the same ones for the same seed."""
    count = len(data.train_y)
    draws = Draws.of_epoch(count, recipe, seed, 0)
    for first in range(0, min(images, count), recipe.batch):
        yield prepared(data, draws.batch(slice(first, first + recipe.batch)), recipe)
