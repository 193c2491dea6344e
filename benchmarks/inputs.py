"""What every stage starts from; free of torch and SciPy, so that memory and imports are measured without them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from sizes import Size

from nc_fast.files.read import Dataset, load_digits, load_idx_folder

DENSE_FEATURES = 784  # as many as MNIST has
ROOT = Path(__file__).resolve().parent.parent


class DataMissingError(Exception):
    """The samples of a size are not on this machine."""


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a campaign starts from: W (D, M) float32, X (N, D) uint8 as stored and float32 scaled, y (N,) int64."""

    W: np.ndarray
    X: np.ndarray
    X_bytes: np.ndarray
    y: np.ndarray


def shared_folder() -> Path:
    return Path(os.environ.get("NC_FAST_SHARED", ROOT.parent / "shared"))


@lru_cache(maxsize=1)
def inputs(size: Size) -> Inputs:
    """Return the inputs of a size; the pool is drawn by the rule of Kaiming He's normal initialization."""
    if size.data == "mnist":
        folder = shared_folder() / "data" / "mnist"
        if not folder.is_dir():
            raise DataMissingError("no MNIST: set NC_FAST_SHARED to the folder that holds data/mnist")
        data = load_idx_folder(folder)
    elif size.data == "dense":
        rng = np.random.default_rng(1)
        y_train = rng.integers(0, 10, size.N, np.uint8)
        X_train = rng.integers(1, 166, (size.N, DENSE_FEATURES), np.uint8) + 10 * y_train[:, None]
        data = Dataset("dense", X_train, y_train, full_scale=255)
    else:
        data = load_digits()
    X_bytes, y = np.ascontiguousarray(data.X_train[: size.N]), data.y_train[: size.N].astype(np.int64)
    X = X_bytes.astype(np.float32)
    X /= data.full_scale
    W = np.random.default_rng(0).standard_normal((X.shape[1], size.M), dtype=np.float32)
    W *= np.sqrt(2 / X.shape[1], dtype=np.float32)
    return Inputs(W, X, X_bytes, y)


@contextmanager
def screening_always() -> Iterator[None]:
    """Screen although the pool is small: problems on which the method would not screen prove nothing."""
    module: Any = sys.modules["nc_fast.screening.screen"]
    kept, module.PAYS = module.PAYS, np.inf
    try:
        yield
    finally:
        module.PAYS = kept
