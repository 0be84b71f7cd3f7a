"""Images for the demo: Fashion-MNIST (a subset ships with the package) and CIFAR-10 (read from the user's files)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from . import cifar10, fashion_mnist

__all__ = ["Dataset", "load"]
TEST_BATCH = 250


@dataclass(frozen=True)
class Dataset:
    """Images and classes in memory.

    train_x, test_x   u8[n, c, h, w]      train_y, test_y   i64[n]
    mean, std         of the training pixels on [0, 1], one pair per channel
    """

    name: str
    classes: tuple[str, ...]
    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def channels(self) -> int:
        return self.train_x.shape[1]

    def prepare(self, images: Tensor) -> Tensor:
        """(x / 255 - mean) / std, in channels_last as convolutions like it: u8[n, c, h, w] → f32[n, c, h, w]."""
        mean, std = (torch.tensor(values, device=images.device).view(-1, 1, 1) for values in (self.mean, self.std))
        return ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    def test_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for images, labels in zip(self.test_x.split(TEST_BATCH), self.test_y.split(TEST_BATCH), strict=True):
            yield self.prepare(images), labels

    def test_batch_count(self) -> int:
        return -(-len(self.test_y) // TEST_BATCH)

    def first(self, count: int) -> Dataset:
        """The same training images, and only the first `count` test images."""
        return replace(self, test_x=self.test_x[:count], test_y=self.test_y[:count])

    def to(self, device: torch.device) -> Dataset:
        """The same data set with its images and classes on a device."""
        moved = {name: getattr(self, name).to(device) for name in ("train_x", "train_y", "test_x", "test_y")}
        return replace(self, **moved)

    def calibration_batches(self, count: int, size: int = 128) -> Iterator[Tensor]:
        """The first `count` training images: enough to fit thresholds, and the same ones every time."""
        for images in self.train_x[:count].split(size):
            yield self.prepare(images)


def load(path: str | Path | None = None) -> Dataset:
    """The shipped subset, or a data set in one of its official forms.

    path   None: the Fashion-MNIST subset. A folder with the idx files of Fashion-MNIST, or CIFAR-10 as its archive
           unpacks (`cifar-10-batches-py`, `cifar-10-batches-bin`) or as an .npz with x and y arrays.

    Raises FileNotFoundError or ValueError with one sentence that says what was looked for and where.
    """
    if path is None:
        return _gray("Fashion-MNIST subset", fashion_mnist.read_subset())
    path = Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist: give the folder with the Fashion-MNIST idx files or cifar-10-batches-py, "
            "or leave --data out for the subset that ships with abcfx"
        )
    for folder in (path, path / "FashionMNIST" / "raw"):
        if fashion_mnist.is_folder(folder):
            return _gray("Fashion-MNIST", fashion_mnist.read_folder(folder))
    return _color(path)


def _gray(name: str, arrays: dict) -> Dataset:
    tensors = {key: torch.from_numpy(value.copy()) for key, value in arrays.items()}
    # the moments of all 60,000 training images, so that the subset and the full set feed a model the same numbers
    return Dataset(name, fashion_mnist.CLASSES, **tensors, mean=(0.2860,), std=(0.3530,))


def _color(path: Path) -> Dataset:
    (train_x, train_y), (test_x, test_y) = cifar10.load(path)
    tensors = [torch.as_tensor(values) for values in (train_x, train_y, test_x, test_y)]
    return Dataset("CIFAR-10", cifar10.CLASSES, *tensors, mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
