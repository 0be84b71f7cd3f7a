"""CIFAR-10 in each form, written by the test as the archives have it; what is missing or damaged is one sentence."""

import pickle

import numpy as np
import pytest

from abcfx.data import cifar10

NAMES = [*cifar10.TRAIN_FILES, cifar10.TEST_FILE]


@pytest.fixture
def parts():
    """Four images for each of the six files: rows of 3072 bytes, and classes."""
    rng = np.random.default_rng(0)
    return {name: (rng.integers(0, 256, (4, 3072), np.uint8), rng.integers(0, 10, 4).tolist()) for name in NAMES}


def write_pickles(folder, parts):
    folder.mkdir(parents=True)
    for name, (images, labels) in parts.items():
        stored = {b"batch_label": b"part", b"labels": labels, b"data": images, b"filenames": [b"a.png"] * 4}
        blob = pickle.dumps(stored, protocol=2).replace(b"numpy._core", b"numpy.core")  # the archive is of 2009
        (folder / name).write_bytes(blob)


def write_binary(folder, parts):
    folder.mkdir(parents=True)
    for name, (images, labels) in parts.items():
        records = np.concatenate([np.array(labels, np.uint8)[:, None], images], 1)
        (folder / f"{name}.bin").write_bytes(records.tobytes())


def train_labels(parts):
    return [label for name in NAMES[:-1] for label in parts[name][1]]


def check(loaded, parts):
    (train_x, train_y), (test_x, test_y) = loaded
    assert (train_x.shape, train_x.dtype, train_y.dtype) == ((20, 3, 32, 32), np.uint8, np.int64)
    assert np.array_equal(train_x.reshape(20, -1), np.concatenate([parts[name][0] for name in NAMES[:-1]]))
    assert train_y.tolist() == train_labels(parts)
    assert np.array_equal(test_x.reshape(4, -1), parts[NAMES[-1]][0])
    assert test_y.tolist() == parts[NAMES[-1]][1]


@pytest.mark.parametrize(
    ("write", "name"), [(write_pickles, "cifar-10-batches-py"), (write_binary, "cifar-10-batches-bin")]
)
def test_official_folders(tmp_path, parts, write, name):
    write(tmp_path / name, parts)
    check(cifar10.load(tmp_path / name), parts)
    check(cifar10.load(str(tmp_path)), parts)


@pytest.mark.parametrize("layout", ["rows", "first", "last"])
@pytest.mark.parametrize(
    "names", [("x_train", "y_train", "x_test", "y_test"), ("train_x", "train_y", "test_x", "test_y")]
)
def test_npz(tmp_path, parts, layout, names):
    rows = np.concatenate([parts[name][0] for name in NAMES[:-1]]), parts[NAMES[-1]][0]
    images = [x if layout == "rows" else x.reshape(-1, 3, 32, 32) for x in rows]
    if layout == "last":
        images = [x.transpose(0, 2, 3, 1) for x in images]
    labels = np.array(train_labels(parts)), np.array(parts[NAMES[-1]][1])[:, None]
    arrays = dict(zip(names, (images[0], labels[0], images[1], labels[1]), strict=True))
    np.savez(tmp_path / "cifar.npz", **arrays)
    check(cifar10.load(tmp_path / "cifar.npz"), parts)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist: unpack cifar-10-python"):
        cifar10.load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no CIFAR-10 in .*: unpack cifar-10-python"):
        cifar10.load(tmp_path)


def test_a_file_is_missing(tmp_path, parts):
    write_pickles(tmp_path / "py", parts)
    (tmp_path / "py" / "data_batch_3").unlink()
    with pytest.raises(FileNotFoundError, match="data_batch_3 is missing"):
        cifar10.load(tmp_path / "py")


@pytest.mark.parametrize("content", [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({b"data": 1})])
def test_damaged_pickle(tmp_path, parts, content):
    write_pickles(tmp_path / "py", parts)
    (tmp_path / "py" / "data_batch_1").write_bytes(content)
    with pytest.raises(ValueError, match="data_batch_1 is not a file of the CIFAR-10 Python archive"):
        cifar10.load(tmp_path / "py")


class Malicious:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_cannot_run_code(tmp_path, parts, capsys):
    write_pickles(tmp_path / "py", parts)
    (tmp_path / "py" / "data_batch_1").write_bytes(pickle.dumps(Malicious()))
    with pytest.raises(ValueError, match=r"it asks for builtins\.print"):
        cifar10.load(tmp_path / "py")
    assert capsys.readouterr().out == ""


def test_damaged_binary(tmp_path, parts):
    write_binary(tmp_path / "bin", parts)
    (tmp_path / "bin" / "data_batch_2.bin").write_bytes(b"\x01" * 3074)
    with pytest.raises(ValueError, match=r"data_batch_2\.bin has 3074 bytes, not a multiple of 3073"):
        cifar10.load(tmp_path / "bin")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": np.zeros((4, 28, 28), np.uint8)}, r"images of shape \[4, 28, 28\]"),
        ({"x_test": np.zeros((4, 3, 32, 32), np.float32)}, "images are float32"),
        ({"y_test": np.zeros(3, np.int64)}, "4 images but 3 labels"),
        ({"y_test": np.array([0, 1, 2, 10])}, "labels must be the classes 0 to 9"),
        ({"y_test": None}, "holds x_train, y_train, x_test: unpack"),
    ],
)
def test_arrays_that_are_not_cifar(tmp_path, change, message):
    images, labels = np.zeros((4, 3, 32, 32), np.uint8), np.zeros(4, np.int64)
    arrays = {"x_train": images, "y_train": labels, "x_test": images, "y_test": labels} | change
    np.savez(tmp_path / "cifar.npz", **{name: value for name, value in arrays.items() if value is not None})
    with pytest.raises(ValueError, match=message):
        cifar10.load(tmp_path / "cifar.npz")


def test_a_file_that_is_not_npz(tmp_path):
    (tmp_path / "cifar.npz").write_bytes(b"PK nonsense")
    with pytest.raises(ValueError, match=r"cifar\.npz is not an \.npz of plain arrays"):
        cifar10.load(tmp_path / "cifar.npz")
