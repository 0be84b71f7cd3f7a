"""CIFAR-10 in the forms in which people have it: the Python archive, the binary archive, or an .npz.

50,000 + 10,000 images of 32x32 RGB pixels in ten classes (Krizhevsky 2009). Nothing is downloaded.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
TRAIN_FILES = tuple(f"data_batch_{part}" for part in range(1, 6))
TEST_FILE = "test_batch"
RECORD = 1 + 3 * 32 * 32  # bytes of one image in the binary archive: class, then red, green and blue planes
WHERE = (
    "unpack cifar-10-python.tar.gz or cifar-10-binary.tar.gz and give its folder (cifar-10-batches-py or "
    "cifar-10-batches-bin), or give an .npz with the arrays x_train, y_train, x_test, y_test"
)

Part = tuple[np.ndarray, np.ndarray]


def load(path: str | Path) -> tuple[Part, Part]:
    """((train_x, train_y), (test_x, test_y)): images u8[n, 3, 32, 32] and classes i64[n].

    path   folder of the Python or the binary archive, the folder that holds it, or an .npz file

    Raises FileNotFoundError or ValueError with one sentence that says what was found and what is needed.
    """
    path = Path(path).expanduser()
    if path.is_file() and path.suffix == ".npz":
        return _load_npz(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist: {WHERE}")
    for folder in (path, path / "cifar-10-batches-py", path / "cifar-10-batches-bin"):
        for suffix, read in (("", _read_pickle), (".bin", _read_binary)):
            if (folder / f"{TEST_FILE}{suffix}").is_file():
                train = [read(_existing(folder / f"{name}{suffix}")) for name in TRAIN_FILES]
                return _join(train), read(folder / f"{TEST_FILE}{suffix}")
    raise FileNotFoundError(f"no CIFAR-10 in {path}: {WHERE}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: CIFAR-10 has five training files and one test file, put all six there"
        )
    return path


def _join(parts: list[Part]) -> Part:
    images, labels = zip(*parts, strict=True)
    return np.concatenate(images), np.concatenate(labels)


class _ArraysOnly(pickle.Unpickler):
    """Reads dictionaries of arrays, strings and numbers; a file that asks for anything else is not CIFAR-10."""

    ALLOWED = frozenset({"_reconstruct", "ndarray", "dtype", "scalar"})

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "numpy" and name in self.ALLOWED:
            return super().find_class(module.replace("numpy.core", "numpy._core"), name)
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def _read_pickle(path: Path) -> Part:
    try:
        stored = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
        images, labels = stored[b"data"], stored[b"labels"]
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, IndexError) as problem:
        raise ValueError(
            f"{path} is not a file of the CIFAR-10 Python archive ({problem}); unpack it again"
        ) from problem
    return _checked(path, images, labels)


def _read_binary(path: Path) -> Part:
    blob = np.fromfile(path, np.uint8)
    if not len(blob) or len(blob) % RECORD:
        raise ValueError(
            f"{path} has {len(blob)} bytes, not a multiple of {RECORD}; unpack cifar-10-binary.tar.gz again"
        )
    records = blob.reshape(-1, RECORD)
    return _checked(path, records[:, 1:], records[:, 0])


def _load_npz(path: Path) -> tuple[Part, Part]:
    try:
        with np.load(path) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as problem:
        raise ValueError(f"{path} is not an .npz of plain arrays ({problem}): {WHERE}") from problem
    parts = []
    for part in ("train", "test"):
        images, labels = (arrays.get(f"{kind}_{part}", arrays.get(f"{part}_{kind}")) for kind in "xy")
        if images is None or labels is None:
            raise ValueError(f"{path} holds {', '.join(arrays) or 'nothing'}: {WHERE}")
        parts.append(_checked(path, images, labels))
    return parts[0], parts[1]


def _checked(path: Path, images: np.ndarray, labels: Any) -> Part:
    """Images as u8[n, 3, 32, 32] from rows of 3072, channels first or last; classes as i64[n]."""
    images, labels = np.asarray(images), np.asarray(labels).reshape(-1)
    if images.dtype != np.uint8:
        raise ValueError(f"{path}: images are {images.dtype}, CIFAR-10 is bytes from 0 to 255 (uint8)")
    if images.shape[1:] == (32, 32, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.shape[1:] == (3072,):
        images = images.reshape(-1, 3, 32, 32)
    if images.shape[1:] != (3, 32, 32):
        raise ValueError(f"{path}: images of shape {list(images.shape)}, CIFAR-10 is [n, 3, 32, 32] or [n, 32, 32, 3]")
    if len(images) != len(labels):
        raise ValueError(f"{path}: {len(images)} images but {len(labels)} labels")
    if not np.isin(labels, np.arange(len(CLASSES))).all():
        raise ValueError(f"{path}: labels must be the classes 0 to 9")
    return np.ascontiguousarray(images), labels.astype(np.int64)
