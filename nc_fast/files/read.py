"""Data to try a campaign on: scikit-learn's digits, folders of IDX files (MNIST, Fashion-MNIST), .npz files.

Files are not trusted: what a header declares is held against what the file can hold before anything of that size is
allocated, decompression is bounded, pickles are refused. Every defect is one ValueError: file, expected, got.
"""

from __future__ import annotations

import gzip
import os
import struct
import zipfile
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from nc_fast.files.untrusted import PathLike, listed, read_bytes, read_declared, readable, text_is_unicode
from nc_fast.inputs.labels import LABEL_KINDS

IDX_UBYTE = 8  # the IDX type code of unsigned bytes
IDX_SPLITS = ("train", "t10k")
HELD_OUT = 5  # every fifth sample in the order of classes, where a data set has no test samples of its own
DIGITS_TEST_SAMPLES = 360  # the last fifth of the 1797 digits
SAMPLE_KINDS = "biuf"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled samples, one flat row each, as they are stored.

    Attributes
    ----------
    name : str
    X_train : (N, D) integer, boolean or floating
    y_train : (N,) integer, boolean or string labels
    X_test, y_test : as the training arrays, or None
    image_shape : (height, width) with height * width = D, or None where the features are no picture
    full_scale : float
        The feature value that stands for 1: 255 for bytes, 16 for the digits, 1 for everything else.
    """

    name: str
    X_train: np.ndarray
    y_train: np.ndarray
    X_test: np.ndarray | None = None
    y_test: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None
    full_scale: float = 1.0

    def scaled(self) -> Dataset:
        """Return the same data as floats divided by ``full_scale``: float64 stays, everything else becomes float32.

        Examples
        --------
        >>> import numpy as np
        >>> pixels = np.array([[0, 51, 255]], dtype=np.uint8)
        >>> Dataset("pixels", pixels, np.array([7]), full_scale=255.0).scaled().X_train
        array([[0. , 0.2, 1. ]], dtype=float32)
        """

        def floats(X: np.ndarray) -> np.ndarray:
            X = X.astype(np.float64 if X.dtype == np.float64 else np.float32)
            X /= self.full_scale
            return X

        X_test = None if self.X_test is None else floats(self.X_test)
        return replace(self, X_train=floats(self.X_train), X_test=X_test, full_scale=1.0)

    def with_test(self) -> Dataset:
        """Return the same data with test samples: its own, or else a fifth of each class; of a class at least one sample is left.

        Raises
        ------
        ValueError
            When there are too few samples to hold some out.

        Examples
        --------
        >>> import numpy as np
        >>> Dataset("ten", np.arange(10)[:, None], np.repeat([0, 1], 5)).with_test().X_test.ravel()
        array([4, 9])
        """
        if self.X_test is not None:
            return self
        X, y = self.X_train, self.y_train
        _, numbers, sizes = np.unique(y, return_inverse=True, return_counts=True)
        held_out = np.zeros(len(y), bool)
        held_out[np.argsort(numbers, kind="stable")[HELD_OUT - 1 :: HELD_OUT]] = True
        held_out &= sizes[numbers] > 1
        if not held_out.any():
            raise ValueError(f"{self.name}: expected at least {HELD_OUT} samples, in classes of two or more, got {len(y)}")
        return replace(self, X_train=X[~held_out], y_train=y[~held_out], X_test=X[held_out], y_test=y[held_out])


def load(source: PathLike | None = None) -> Dataset:
    """Load a folder of IDX files, an .npz file, or, with None, scikit-learn's digits.

    Raises
    ------
    FileNotFoundError
        When there is no such file or folder.
    ValueError
        When a file is not what it should be.
    """
    if source is None:
        return load_digits()
    if os.path.isdir(source):
        return load_idx_folder(source)
    return load_npz(source)


def load_digits() -> Dataset:
    """Load scikit-learn's 1797 handwritten digits, 8 × 8 bytes from 0 to 16; the last 360 are the test samples.

    Raises
    ------
    ImportError
        When scikit-learn is not installed.
    """
    from sklearn import datasets

    X, y = datasets.load_digits(return_X_y=True)
    X = X.astype(np.uint8)  # whole numbers from 0 to 16, which scikit-learn stores as float64
    last = len(X) - DIGITS_TEST_SAMPLES
    return Dataset("digits", X[:last], y[:last], X[last:], y[last:], image_shape=(8, 8), full_scale=16.0)


def load_idx_folder(path: PathLike) -> Dataset:
    """Load a folder with the four files of MNIST or Fashion-MNIST, as published (.gz) or unpacked.

    Parameters
    ----------
    path : folder with train-images-idx3-ubyte, train-labels-idx1-ubyte and the same of t10k, each plain or .gz

    Returns
    -------
    Dataset
        Images as stored: uint8, one row each.

    Raises
    ------
    FileNotFoundError
        When one of the four files is missing.
    ValueError
        When a file is damaged, or the files do not belong together.
    """
    folder = Path(path)
    images, labels = {}, {}
    for split in IDX_SPLITS:
        images_path = _find(folder, f"{split}-images-idx3-ubyte")
        labels_path = _find(folder, f"{split}-labels-idx1-ubyte")
        images[split], labels[split] = read_idx(images_path, 3), read_idx(labels_path, 1)
        if len(images[split]) != len(labels[split]):
            raise ValueError(f"{labels_path}: expected a label for each of {len(images[split])} images, got {len(labels[split])}")
    train, test = (images[split] for split in IDX_SPLITS)
    if train.shape[1:] != test.shape[1:]:
        raise ValueError(f"{images_path}: expected images of shape {train.shape[1:]} as in the train file, got {test.shape[1:]}")
    return Dataset(
        name=folder.resolve().name,
        X_train=train.reshape(len(train), -1),
        y_train=labels["train"],
        X_test=test.reshape(len(test), -1),
        y_test=labels["t10k"],
        image_shape=(train.shape[1], train.shape[2]),
        full_scale=255.0,
    )


def load_npz(path: PathLike) -> Dataset:
    """Load arrays ``X`` and ``y``, optionally ``X_test`` and ``y_test``, from an .npz file; pickles are refused.

    Parameters
    ----------
    path : .npz file
        ``X`` is (N, D), or (N, height, width) pictures; ``y`` is (N,) integer, boolean or string labels.

    Returns
    -------
    Dataset
        Samples as stored, pictures flattened.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When the file is damaged, or an array is missing or does not fit.
    """
    path = Path(path)
    arrays = read_npz(path, required=("X", "y"), optional=("X_test", "y_test"))
    X, y = _samples_and_labels(path, "X", "y", arrays)
    X_test, y_test = None, None
    if "X_test" in arrays or "y_test" in arrays:
        X_test, y_test = _samples_and_labels(path, "X_test", "y_test", arrays)
        if X_test.shape[1:] != X.shape[1:]:
            raise ValueError(f"{path}: expected X_test with samples of shape {X.shape[1:]} as in X, got {X_test.shape[1:]}")
        X_test = X_test.reshape(len(X_test), -1)
    return Dataset(
        name=path.stem,
        X_train=X.reshape(len(X), -1),
        y_train=y,
        X_test=X_test,
        y_test=y_test,
        image_shape=(X.shape[1], X.shape[2]) if X.ndim == 3 else None,
        full_scale=255.0 if X.dtype == np.uint8 else 1.0,
    )


def read_idx(path: PathLike, ndim: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes with ``ndim`` dimensions; a name that ends in .gz is decompressed.

    Raises
    ------
    ValueError
        When the file is not such a file, is empty, truncated, longer than declared, damaged or above MAX_BYTES.
    """
    path = Path(path)
    packed = path.suffix == ".gz"
    with readable(path, "an IDX file") as stored, gzip.open(stored) if packed else nullcontext(stored) as file:
        header = read_bytes(file, 4 + 4 * ndim)
        magic = bytes((0, 0, IDX_UBYTE, ndim))
        if header[:4] != magic:
            got = f"0x{header[:4].hex()}" if header else "an empty file"
            raise ValueError(f"{path}: expected an IDX file of {ndim}-dimensional unsigned bytes, magic 0x{magic.hex()}, got {got}")
        if len(header) < 4 + 4 * ndim:
            raise ValueError(f"{path}: expected an IDX header of {4 + 4 * ndim} bytes, got {len(header)}")
        shape = struct.unpack(f">{ndim}I", header[4:])
        body = read_declared(file, path, shape, 1, packed=packed, what=f"the declared shape {shape}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def read_npz(path: PathLike, *, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    """Read the named arrays of an .npz file; other members are not looked at, pickles are refused.

    Raises
    ------
    ValueError
        When the file is damaged, a required array is missing, or an array is of objects or above MAX_BYTES.
    """
    path = Path(path)
    with readable(path, "an .npz file") as stored, zipfile.ZipFile(stored) as archive:
        members = {member.filename.removesuffix(".npy"): member for member in archive.infolist()}
        for name in required:
            if name not in members:
                raise ValueError(f"{path}: expected arrays {', '.join(required)}, got {listed(members)}")
        wanted = [name for name in (*required, *optional) if name in members]
        return {name: _read_member(path, name, archive, members[name]) for name in wanted}


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"{folder}: expected a file {name} or {name}.gz, got none")


def _read_member(path: Path, name: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise ValueError(f"{path}: expected {name} stored or deflated, as numpy.savez writes it, got another compression or encryption")
    with archive.open(member) as file:
        shape, fortran_order, dtype = _npy_header(path, name, file)
        packed = member.compress_type == zipfile.ZIP_DEFLATED
        body = read_declared(file, path, shape, dtype.itemsize, packed=packed, what=f"{name} of declared shape {shape}")
    array = np.frombuffer(body, dtype)
    text_is_unicode(path, name, array)
    return array.reshape(shape, order="F" if fortran_order else "C")


def _npy_header(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        shape, fortran_order, dtype = readers[np.lib.format.read_magic(file)](file)
    except Exception as error:  # the header is parsed as Python source: nearly any exception can come out
        raise ValueError(f"{path}: expected {name} as a .npy array, got a damaged header: {' '.join(str(error).split())}") from None
    if dtype.kind not in SAMPLE_KINDS + LABEL_KINDS:
        raise ValueError(f"{path}: expected {name} of numbers or strings, got dtype {dtype}; pickled objects are refused")
    return shape, fortran_order, dtype


def _samples_and_labels(path: Path, X_name: str, y_name: str, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    for name in (X_name, y_name):
        if name not in arrays:
            raise ValueError(f"{path}: expected X_test and y_test or neither, got no {name}")
    X, y = arrays[X_name], arrays[y_name]
    if X.ndim not in (2, 3) or X.dtype.kind not in SAMPLE_KINDS:
        raise ValueError(f"{path}: expected {X_name} of shape (N, D) or (N, height, width), numbers, got {X.shape}, {X.dtype}")
    if y.shape != (len(X),):
        raise ValueError(f"{path}: expected {y_name} of shape (N,) = ({len(X)},), got {y.shape}")
    if y.dtype.kind not in LABEL_KINDS:
        raise ValueError(f"{path}: expected {y_name} as integer, boolean or string labels, got {y.dtype}")
    return X, y
