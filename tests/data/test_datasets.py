"""The data sets: what ships is what it says, official files are read, and each mistake gets one clear sentence."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from abcfx.data import fashion_mnist, load
from abcfx.data.fashion_mnist import FILES, SUBSET


def idx(values: np.ndarray) -> bytes:
    header = bytes([0, 0, 8, values.ndim]) + b"".join(size.to_bytes(4, "big") for size in values.shape)
    return header + values.astype(np.uint8).tobytes()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A Fashion-MNIST of 6 + 4 images, half of the files gzipped."""
    rng = np.random.default_rng(0)
    for key, name in FILES.items():
        count = 6 if key.startswith("train") else 4
        values = rng.integers(0, 256, (count, 28, 28)) if key.endswith("x") else np.arange(count)
        if key.endswith("x"):
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(idx(values)))
        else:
            (tmp_path / name).write_bytes(idx(values))
    return tmp_path


def test_the_subset_is_balanced_and_complete():
    data = load()
    assert data.train_x.shape == (6000, 1, 28, 28)
    assert data.test_x.shape == (2000, 1, 28, 28)
    assert data.train_x.dtype == data.test_x.dtype == torch.uint8
    assert data.train_y.bincount().tolist() == [600] * 10
    assert data.test_y.bincount().tolist() == [200] * 10


def test_the_subset_ships_with_its_licence_and_stays_small():
    licence = SUBSET.with_name("LICENSE-fashion-mnist.txt").read_text()
    assert "MIT License" in licence
    assert "Zalando SE" in licence
    assert SUBSET.stat().st_size < 4e6


def test_no_test_image_of_the_subset_is_among_its_training_images():
    data = load()
    train = {image.numpy().tobytes() for image in data.train_x}
    assert sum(image.numpy().tobytes() in train for image in data.test_x) == 0


def test_prepared_images_are_normalized_and_channels_last():
    data = load()
    images = data.prepare(data.train_x)
    # the constants are those of all 60,000 images; the mean of 6,000 differs by about 0.3 / sqrt(6000) of a deviation
    assert abs(float(images.mean())) < 0.02
    assert abs(float(images.std()) - 1) < 0.02
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_test_batches_cover_every_image_once():
    data = load().first(600)
    batches = list(data.test_batches())
    assert len(batches) == data.test_batch_count() == 3
    assert torch.equal(torch.cat([labels for _, labels in batches]), data.test_y)


def test_official_files_are_read_gzipped_or_not(folder: Path):
    data = load(folder)
    assert data.name == "Fashion-MNIST"
    assert data.train_y.tolist() == [0, 1, 2, 3, 4, 5]
    expected = np.random.default_rng(0).integers(0, 256, (6, 28, 28))
    assert np.array_equal(data.train_x[:, 0].numpy(), expected)


def test_the_layout_of_torchvision_is_found(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("root")
    (root / "FashionMNIST").mkdir()
    folder.rename(root / "FashionMNIST" / "raw")
    assert len(load(root).test_y) == 4


def test_cifar_arrays_are_read(tmp_path: Path):
    images = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3), dtype=np.uint8)
    labels = np.arange(8) % 10
    np.savez(tmp_path / "cifar.npz", x_train=images, y_train=labels, x_test=images[:4], y_test=labels[:4])
    data = load(tmp_path / "cifar.npz")
    assert (data.name, data.channels, len(data.classes)) == ("CIFAR-10", 3, 10)
    assert np.array_equal(data.test_x.permute(0, 2, 3, 1).numpy(), images[:4])
    assert data.prepare(data.test_x).shape == (4, 3, 32, 32)


def test_a_missing_data_set_says_what_to_give(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist: give the folder .* or leave --data out"):
        load(tmp_path / "nowhere")


def test_a_folder_without_data_is_an_error(tmp_path: Path):
    with pytest.raises((FileNotFoundError, ValueError), match=str(tmp_path)):
        load(tmp_path)


def _remove(folder: Path) -> None:
    (folder / "train-labels-idx1-ubyte").unlink()


def _cut(folder: Path) -> None:
    path = folder / "t10k-labels-idx1-ubyte"
    path.write_bytes(path.read_bytes()[:-1])


def _not_idx(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"<html>404</html>")


def _damage(folder: Path) -> None:
    path = folder / "t10k-images-idx3-ubyte.gz"
    path.write_bytes(path.read_bytes()[:-40])


def _wrong_size(folder: Path) -> None:
    (folder / "t10k-images-idx3-ubyte.gz").write_bytes(idx(np.zeros((4, 32, 32))))


def _too_few_labels(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.arange(3)))


def _bad_label(folder: Path) -> None:
    (folder / "t10k-labels-idx1-ubyte").write_bytes(idx(np.array([0, 1, 2, 10])))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (_remove, r"lacks train-labels-idx1-ubyte\[.gz\]"),
        (_cut, r"is cut short: 3 values, its header says \[4\]"),
        (_not_idx, "is not an idx file"),
        (_damage, "is a damaged gzip file"),
        (_wrong_size, r"\[4, 32, 32\], Fashion-MNIST images are \[n, 28, 28\]"),
        (_too_few_labels, r"4 test images but labels of shape \[3\]"),
        (_bad_label, "a test label is 10"),
    ],
)
def test_bad_files_are_named(folder: Path, harm, message: str):
    harm(folder)
    with pytest.raises((FileNotFoundError, ValueError), match=message):
        load(folder)


def test_an_idx_file_of_other_types_is_refused(tmp_path: Path):
    (tmp_path / "floats").write_bytes(bytes([0, 0, 0x0D, 1, 0, 0, 0, 1]) + bytes(4))
    with pytest.raises(ValueError, match="is not an idx file of bytes"):
        fashion_mnist.read_idx(tmp_path / "floats")
