"""What the tests of streams, sliced arrays, checkpoints and saved moments share."""

import numpy as np

N, D, M = 40_000, 6, 31
ROWS = 16_384  # of a block at this D


def drawn_problem():
    rng = np.random.default_rng(5)
    y = rng.integers(0, 4, size=N)
    y[: N // 2] %= 2  # two of the classes come late
    X = rng.normal(size=(N, D)).astype(np.float32) + np.eye(4, D, dtype=np.float32)[y]
    return rng.normal(size=(D, M)).astype(np.float32), X, y


def batches(X, y, *sizes):
    first, turn = 0, 0
    while first < len(X):
        stop = first + sizes[turn % len(sizes)]
        yield X[first:stop], y[first:stop]
        first, turn = stop, turn + 1


def same_bits(a, b):
    np.testing.assert_array_equal(a.classes, b.classes)
    for name in ("count", "mean", "m2"):
        np.testing.assert_array_equal(np.asarray(getattr(a, name)), np.asarray(getattr(b, name)))


class OnlySlices:
    """What h5py and Zarr offer; it counts the rows it hands out."""

    def __init__(self, X):
        self._X, self.shape, self.dtype, self.rows = X, X.shape, X.dtype, 0

    def __len__(self):
        return self.shape[0]

    def __getitem__(self, key):
        assert isinstance(key, slice)
        block = self._X[key]
        self.rows += len(block)
        return block

    def __array__(self, *args, **kwargs):
        raise AssertionError("read whole")


class StoppedError(Exception):
    pass


def stop_after(source, n):
    for number, item in enumerate(source):
        if number == n:
            raise StoppedError
        yield item
