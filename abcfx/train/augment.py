"""Random crops, mirror images and pasted patches, drawn for each image, on bytes; and the batches made of them."""

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

    order    i64[n]   a permutation        top, left  i64[n]  in 0 … 2·pad        mirror  bool[n]
    partner  i64[n]   image that a patch comes from        patch  f32[n, 4]  its top, bottom, left and right edge as
             parts of the image's sides; both None without patches
    """

    order: Tensor
    top: Tensor
    left: Tensor
    mirror: Tensor
    partner: Tensor | None = None
    patch: Tensor | None = None

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
        if not recipe.cutmix:
            return cls(order, top, left, mirror)
        partner, patch = torch.randperm(images, generator=generator), draw_patches(images, recipe.cutmix, generator)
        if recipe.views:
            partner, patch = partner[order], patch[order]
        return cls(order, top, left, mirror, partner, patch)

    def batch(self, places: slice) -> Draws:
        """The part of the epoch at these places of its order."""
        return Draws(*(None if part is None else part[places] for part in vars(self).values()))

    def boxes(self, height: int, width: int) -> Tensor:
        """i64[n, 4]: edges of the patches in pixels, top <= y < bottom and left <= x < right."""
        return (self.patch * self.patch.new_tensor([height, height, width, width])).round().long()


def draw_patches(images: int, chance: float, generator: torch.Generator) -> Tensor:
    """f32[images, 4]: top, bottom, left, right of a patch of the image's proportions, as parts of its sides.

    Its area is uniform in (0, 1), its centre anywhere in the image, and what lies outside is cut off; with probability
    1 - chance it is empty. Source: CutMix (Yun et al. 2019), section 3.1.
    """
    half = torch.rand(images, generator=generator).sqrt() / 2
    half = torch.where(torch.rand(images, generator=generator) < chance, half, 0.0)
    y, x = torch.rand(2, images, generator=generator)
    return torch.stack([y - half, y + half, x - half, x + half], 1).clamp_(0, 1)


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
    """f32[b, c, h, w]: the training images of `draws`, augmented, patched and normalized."""
    pad = recipe.pad if recipe.augment == "crop" else 0
    images = augment(data.train_x[draws.order], draws, pad)
    if draws.patch is not None:
        others = augment(data.train_x[draws.partner], draws, pad)
        images = paste(images, others, draws.boxes(*images.shape[-2:]).to(images.device))
    return data.prepare(images)


def paste(images: Tensor, others: Tensor, boxes: Tensor) -> Tensor:
    """Those pixels of `others` that lie in the boxes, the rest of `images`. boxes i64[b, 4] as of Draws.boxes."""
    top, bottom, left, right = boxes.view(-1, 4, 1).unbind(1)
    y, x = (torch.arange(size, device=images.device) for size in images.shape[-2:])
    inside = ((top <= y) & (y < bottom)).unsqueeze(2) & ((left <= x) & (x < right)).unsqueeze(1)
    return torch.where(inside.unsqueeze(1), others, images)


def mixed_labels(data: Dataset, draws: Draws) -> Tensor:
    """f32[b, classes]: of each class the part of the pixels that show an image of it."""
    height, width = data.train_x.shape[-2:]
    top, bottom, left, right = draws.boxes(height, width).unbind(1)
    share = ((bottom - top) * (right - left) / (height * width)).unsqueeze(1).to(data.train_y.device)
    own, other = (F.one_hot(data.train_y[part], len(data.classes)) for part in (draws.order, draws.partner))
    return (1 - share) * own + share * other


class Batch(NamedTuple):
    """images f32[b, c, h, w] augmented and normalized; labels i64[b]; order i64[b]: which training images they are

    targets   what the loss compares with: labels, or f32[b, classes] where images show parts of two
    """

    images: Tensor
    labels: Tensor
    order: Tensor
    epoch: int
    targets: Tensor


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
        labels = self.data.train_y[draws.order]
        targets = labels if draws.patch is None else mixed_labels(self.data, draws)
        return Batch(prepared(self.data, draws, self.recipe), labels, draws.order, epoch, targets)


def augmented_batches(data: Dataset, recipe: Recipe, seed: int, images: int) -> Iterator[Tensor]:
    """About `images` training images as training sees them, in whole batches; the same ones for the same seed."""
    count = len(data.train_y)
    draws = Draws.of_epoch(count, recipe, seed, 0)
    for first in range(0, min(images, count), recipe.batch):
        yield prepared(data, draws.batch(slice(first, first + recipe.batch)), recipe)
