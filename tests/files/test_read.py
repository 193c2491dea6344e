"""Readers of the demo's data: what they return, and refusals of data sets that do not fit together."""

import gzip
import os

import numpy as np
import pytest
from read_cases import idx

from nc_fast.files import read

NAMES = {"train": 7, "t10k": 3}


@pytest.fixture
def images(rng):
    return {split: rng.integers(0, 256, (n, 4, 5), dtype=np.uint8) for split, n in NAMES.items()}


@pytest.fixture
def labels(rng):
    return {split: rng.integers(0, 10, n, dtype=np.uint8) for split, n in NAMES.items()}


@pytest.fixture
def folder(tmp_path, images, labels):
    for split in NAMES:
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(images[split]))
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels[split])))
    return tmp_path


def test_idx_folder_plain_and_packed(folder, images, labels):
    loaded = read.load(folder)
    assert (loaded.name, loaded.image_shape, loaded.full_scale) == (folder.name, (4, 5), 255)
    assert loaded.X_train.dtype == np.uint8
    np.testing.assert_array_equal(loaded.X_train, images["train"].reshape(7, 20))
    np.testing.assert_array_equal(loaded.y_train, labels["train"])
    np.testing.assert_array_equal(loaded.X_test, images["t10k"].reshape(3, 20))
    np.testing.assert_array_equal(loaded.y_test, labels["t10k"])


def test_scaled_is_a_float_copy(folder, images):
    loaded = read.load(folder)
    scaled = loaded.scaled()
    assert (scaled.X_train.dtype, scaled.X_test.dtype, scaled.full_scale) == (np.float32, np.float32, 1.0)
    np.testing.assert_allclose(scaled.X_train, images["train"].reshape(7, 20) / 255.0, rtol=1e-6)
    np.testing.assert_array_equal(loaded.X_train, images["train"].reshape(7, 20))
    np.testing.assert_array_equal(scaled.scaled().X_train, scaled.X_train)


def test_own_test_samples_stay_the_test_samples(folder):
    dataset = read.load(folder)
    assert dataset.with_test() is dataset


def test_mnist(mnist):
    assert (mnist.name, mnist.X_train.shape, mnist.X_test.shape) == ("mnist", (60000, 784), (10000, 784))
    assert np.bincount(mnist.y_train).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert mnist.y_test[:5].tolist() == [7, 2, 1, 0, 4]


def test_digits():
    pytest.importorskip("sklearn")
    digits = read.load()
    assert (digits.X_train.shape, digits.X_test.shape, digits.image_shape) == ((1437, 64), (360, 64), (8, 8))
    assert (digits.X_train.dtype, digits.X_train.max(), digits.scaled().X_train.max()) == (np.uint8, 16, 1.0)
    assert sorted(set(digits.y_train)) == sorted(set(digits.y_test)) == list(range(10))


def test_folder_that_does_not_belong_together(folder, images):
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images["t10k"][:2]))
    with pytest.raises(ValueError, match=r"t10k-labels-idx1-ubyte.gz: expected a label for each of 2 images, got 3"):
        read.load(folder)
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(images["t10k"][:, :3].copy()))
    with pytest.raises(ValueError, match=r"t10k-images-idx3-ubyte: expected images of shape \(4, 5\) .* got \(3, 5\)"):
        read.load(folder)
    (folder / "t10k-images-idx3-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"expected a file t10k-images-idx3-ubyte or .*, got none"):
        read.load(folder)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_round_trip(tmp_path, rng, save):
    X, y = rng.normal(size=(6, 3)), np.array(["a", "b", "a", "b", "a", "c"])
    path = tmp_path / "some.npz"
    save(path, X=np.asfortranarray(X), y=y, X_test=X[:2], y_test=y[:2], other=X)
    loaded = read.load(path)
    assert (loaded.name, loaded.image_shape, loaded.full_scale) == ("some", None, 1.0)
    np.testing.assert_array_equal(loaded.X_train, X)
    np.testing.assert_array_equal(loaded.y_train, y)
    np.testing.assert_array_equal(loaded.X_test, X[:2])
    assert loaded.scaled().X_train.dtype == np.float64


def test_npz_of_pictures(tmp_path, rng):
    X = rng.integers(0, 256, (6, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "p.npz", X=X, y=np.arange(6))
    loaded = read.load(tmp_path / "p.npz")
    assert (loaded.image_shape, loaded.full_scale, loaded.X_test) == ((2, 3), 255.0, None)
    np.testing.assert_array_equal(loaded.X_train, X.reshape(6, 6))


X, Y = np.ones((4, 3)), np.arange(4)
WRONG_NPZ = {
    "no y": ({"X": X}, "expected arrays X, y, got X"),
    "nothing": ({}, "expected arrays X, y, got none"),
    "one-dimensional": ({"X": Y, "y": Y}, r"X of shape \(N, D\) or \(N, height, width\), numbers, got \(4,\)"),
    "string samples": ({"X": X.astype(str), "y": Y}, "numbers, got"),
    "complex": ({"X": X.astype(complex), "y": Y}, "X of numbers or strings, got dtype complex128"),
    "pickled": ({"X": X.astype(object), "y": Y}, "got dtype object; pickled objects are refused"),
    "short y": ({"X": X, "y": Y[:3]}, r"y of shape \(N,\) = \(4,\), got \(3,\)"),
    "float y": ({"X": X, "y": Y / 2}, "y as integer, boolean or string labels, got float64"),
    "empty": ({"X": X[:0], "y": Y[:0]}, r"at least one element, got the declared shape \(0, 3\)"),
    "test without labels": ({"X": X, "y": Y, "X_test": X}, "X_test and y_test or neither, got no y_test"),
    "labels without test": ({"X": X, "y": Y, "y_test": Y}, "X_test and y_test or neither, got no X_test"),
    "other features": ({"X": X, "y": Y, "X_test": X[:, :2], "y_test": Y}, r"samples of shape \(3,\) as in X, got \(2,\)"),
}


@pytest.mark.parametrize("case", WRONG_NPZ)
def test_wrong_npz(tmp_path, case):
    arrays, message = WRONG_NPZ[case]
    path = tmp_path / "x.npz"
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=message) as caught:
        read.load_npz(path)
    assert str(caught.value).startswith(f"{path}: expected ")


class Trap:
    """Unpickled, it makes a folder."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("member", ["X", "y", "X_test", "y_test", "other"])
def test_a_pickle_in_an_npz_is_never_loaded(tmp_path, member):
    trap, path = tmp_path / "sprung", tmp_path / "x.npz"
    arrays = {"X": X, "y": Y, "X_test": X, "y_test": Y}
    np.savez(path, **{**arrays, member: np.array([Trap(str(trap))] * 4, object)})
    if member == "other":
        read.load_npz(path)  # members that nobody asked for are not read
    else:
        with pytest.raises(ValueError, match=f"expected {member} .* got dtype object; pickled objects are refused"):
            read.load_npz(path)
    assert not trap.exists()
    np.load(path, allow_pickle=True)[member]  # the trap is one
    assert trap.exists()


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError):
        read.load(tmp_path / "absent.npz")
    (tmp_path / "text.npz").write_text("no archive")
    with pytest.raises(ValueError, match=r"an \.npz file, got damaged data: File is not a zip file"):
        read.load(tmp_path / "text.npz")
