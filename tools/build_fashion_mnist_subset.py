"""Build abcfx/data/fashion_mnist_subset.npz from the official Fashion-MNIST files, or check that it is what it says.

    python tools/build_fashion_mnist_subset.py FOLDER            # writes the subset
    python tools/build_fashion_mnist_subset.py FOLDER --check    # compares it with FOLDER, writes nothing

FOLDER holds train-images-idx3-ubyte.gz and its three companions: https://github.com/zalandoresearch/fashion-mnist,
or Debian's package dataset-fashion-mnist (/usr/share/datasets/fashion-mnist).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

from abcfx.data import fashion_mnist


def first_of_each_class(labels: np.ndarray, count: int) -> np.ndarray:
    """Positions of the first `count` images of each class, in their original order."""
    chosen = [np.flatnonzero(labels == label)[:count] for label in range(len(fashion_mnist.CLASSES))]
    return np.sort(np.concatenate(chosen))


def build(folder: Path) -> dict[str, np.ndarray]:
    full = fashion_mnist.read_folder(folder)
    subset = {}
    for part, count in (("train", fashion_mnist.TRAIN_PER_CLASS), ("test", fashion_mnist.TEST_PER_CLASS)):
        chosen = first_of_each_class(full[f"{part}_y"], count)
        subset[f"{part}_x"] = full[f"{part}_x"][chosen, 0]
        subset[f"{part}_y"] = full[f"{part}_y"][chosen].astype(np.uint8)
    return subset


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--check", action="store_true", help="compare the shipped file with FOLDER, write nothing")
    arguments = parser.parse_args()
    subset = build(arguments.folder)
    if arguments.check:
        with np.load(fashion_mnist.SUBSET) as stored:
            same = set(stored.files) == set(subset) and all(np.array_equal(stored[key], subset[key]) for key in subset)
        print("the shipped subset is " + ("exactly these images" if same else "NOT these images"))
        return 0 if same else 1
    np.savez_compressed(fashion_mnist.SUBSET, **subset)
    print(f"{fashion_mnist.SUBSET}: {fashion_mnist.SUBSET.stat().st_size / 1e6:.2f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
