"""Fashion-MNIST: the subset that ships with the package, and the full set in its official idx files.

60,000 + 10,000 images of 28x28 gray pixels in ten classes; Zalando SE, MIT licence (LICENSE-fashion-mnist.txt beside
this file). The subset is the first 600 training and the first 200 test images of each class, in their original order,
without loss (tools/build_fashion_mnist_subset.py).
"""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

import numpy as np

SUBSET = Path(__file__).with_name("fashion_mnist_subset.npz")
TRAIN_PER_CLASS, TEST_PER_CLASS = 600, 200
CLASSES = ("T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
FILES = {
    "train_x": "train-images-idx3-ubyte",
    "train_y": "train-labels-idx1-ubyte",
    "test_x": "t10k-images-idx3-ubyte",
    "test_y": "t10k-labels-idx1-ubyte",
}


def read_idx(path: Path) -> np.ndarray:
    """One idx file of bytes, gzipped or not: header 00 00 08 rank, then `rank` big-endian sizes, then the values."""
    blob = path.read_bytes()
    if blob[:2] == b"\x1f\x8b":
        try:
            blob = gzip.decompress(blob)
        except (EOFError, OSError, zlib.error) as problem:
            raise ValueError(f"{path} is a damaged gzip file ({problem}); download it again") from problem
    if len(blob) < 4 or blob[:3] != b"\x00\x00\x08":
        raise ValueError(f"{path} is not an idx file of bytes (it must start with 00 00 08)")
    start = 4 + 4 * blob[3]
    shape = [int(size) for size in np.frombuffer(blob[4:start], ">u4")]
    if len(shape) != blob[3] or len(blob) - start != int(np.prod(shape)):
        raise ValueError(f"{path} is cut short: {max(len(blob) - start, 0)} values, its header says {shape}")
    return np.frombuffer(blob, np.uint8, offset=start).reshape(shape)


def find_idx(folder: Path, name: str) -> Path | None:
    """The file `name` or `name.gz` in a folder."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def is_folder(folder: Path) -> bool:
    """Whether at least one of the four idx files is there."""
    return folder.is_dir() and any(find_idx(folder, name) for name in FILES.values())


def read_folder(folder: Path) -> dict[str, np.ndarray]:
    """train_x, test_x u8[n, 1, 28, 28] and train_y, test_y i64[n] from the four official files."""
    arrays = {}
    for key, name in FILES.items():
        path = find_idx(folder, name)
        if path is None:
            raise FileNotFoundError(f"{folder} lacks {name}[.gz]: Fashion-MNIST is four files, put all four there")
        values = read_idx(path)
        if key.endswith("x") and values.shape[1:] != (28, 28):
            raise ValueError(f"{path} holds values of shape {list(values.shape)}, Fashion-MNIST images are [n, 28, 28]")
        arrays[key] = values[:, None] if key.endswith("x") else values.astype(np.int64)
    for part in ("train", "test"):
        images, labels = arrays[f"{part}_x"], arrays[f"{part}_y"]
        if labels.ndim != 1 or len(images) != len(labels):
            raise ValueError(f"{folder}: {len(images)} {part} images but labels of shape {list(labels.shape)}")
        if len(labels) and labels.max() >= len(CLASSES):
            raise ValueError(f"{folder}: a {part} label is {labels.max()}, Fashion-MNIST has classes 0 to 9")
    return arrays


def read_subset() -> dict[str, np.ndarray]:
    """The shipped arrays, as `read_folder` returns them."""
    with np.load(SUBSET) as stored:
        return {key: stored[key][:, None] if key.endswith("x") else stored[key].astype(np.int64) for key in FILES}
