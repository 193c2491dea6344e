"""The moments stage bound to a pool: every argument checked once, then run on an array, on slices, or on a stream of batches.

What does not fit in memory is cut into blocks of ``block_rows`` samples, whatever the sizes of the batches it came in, so
that the same samples in the same order give the same bits, also when the stream was interrupted and taken up again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_fast.backends import registry
from nc_fast.inputs import checks
from nc_fast.inputs.arrays import array_namespace, is_tensor, like
from nc_fast.inputs.labels import join_labels
from nc_fast.inputs.sources import block_rows, is_sliced, read_rows
from nc_fast.runtime.progress import Report
from nc_fast.stages.checkpoint import Checkpoint, fingerprint
from nc_fast.types import Array, ClassMoments

PRECISIONS = ("auto", "fp16", "tf32", "ieee")


@dataclass(frozen=True, eq=False)
class Batch:
    """Checked samples; classes may include some that have no sample here."""

    X: Array  # (N, D), or an array-like of which slices are still to be read and checked
    codes: np.ndarray  # (N,) int64, index into classes
    classes: np.ndarray  # (C,)


class MomentsStage:
    """The moments stage of one pool of candidates."""

    def __init__(
        self, backend: registry.Backend, W: Array, bias: Array | float, activation: str | Callable[[Any], Any], precision: str
    ) -> None:
        self.bias = checks.biases(bias, W)
        activation = checks.activation(activation)
        checks.choice("precision", precision, PRECISIONS if backend.takes_tensors else ("auto",))
        name = activation if isinstance(activation, str) else getattr(activation, "__qualname__", type(activation).__name__)
        self._described = {"activation": name, "backend": backend.name, "precision": precision}
        if callable(activation) and not backend.takes_tensors:
            activation = checks.elementwise(activation, tensors=is_tensor(W))
        self._W = W
        self._backend = backend
        self._arguments = {"bias": backend.place(W, self.bias), "activation": activation, "precision": precision}
        self._block_rows = block_rows(W.shape[0])

    @property
    def n_features(self) -> int:
        """D."""
        return int(self._W.shape[0])

    @property
    def described(self) -> dict[str, str]:
        """What has to be the same where moments are to be merged: activation, backend, precision."""
        return dict(self._described)

    @property
    def pool(self) -> str:
        """Shape and dtype of the pool, in words."""
        return f"{tuple(self._W.shape)} {str(self._W.dtype).removeprefix('torch.')}"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the backend's function gets beside pool, samples and labels: bias, activation, precision."""
        return dict(self._arguments)

    def fingerprint(self) -> str:
        """Return a digest of the pool and its biases."""
        return fingerprint(self._W)[:16] + fingerprint(self.bias)[:16]

    def check(self, X: Array, y: Array) -> Batch:
        """Check samples and labels; slices of a sliced X are checked for NaN when they are read."""
        check = checks.sliced_samples if is_sliced(X) else checks.samples
        X = check("X", X, self._W, half=self._backend.takes_tensors)
        classes, codes = checks.labels("y", y, X.shape[0])
        return Batch(X, codes, classes)

    def run(self, batch: Batch, report: Report | None, checkpoint: str | os.PathLike[str] | None = None) -> ClassMoments:
        """Return the moments of one array, read slice by slice if it is a sliced one or a checkpoint is kept."""
        if checkpoint is None and not is_sliced(batch.X):
            return self._run(batch, report)
        n_samples = len(batch.codes)
        kept = None if checkpoint is None else self._checkpoint(checkpoint, samples=n_samples)
        total = self._merge(lambda done: self._slices(batch, done), kept, report, n_samples)
        return self.none(batch.classes) if total is None else total

    def run_batches(
        self,
        batches: Iterable[tuple[Array, Array]],
        report: Report | None,
        checkpoint: str | os.PathLike[str] | None = None,
        *,
        may_be_empty: bool = False,
    ) -> ClassMoments:
        """Return the moments of a stream of (X, y) batches; with a checkpoint, samples it has are read but not looked at."""
        kept = None if checkpoint is None else self._checkpoint(checkpoint)
        total = self._merge(lambda done: self._blocks(batches, done), kept, report, 0)
        if total is None and not may_be_empty:
            raise ValueError("X: expected at least one batch, got none")
        return self.none(np.zeros(0)) if total is None else total

    def none(self, classes: np.ndarray) -> ClassMoments:
        """Return the moments of no samples."""
        shape = (len(classes), self._W.shape[1])
        empty = (np.zeros(shape[0], np.int64), np.zeros(shape), np.zeros(shape))
        return ClassMoments(classes, *(like(self._W, array) for array in empty))

    def _run(self, batch: Batch, report: Report | None) -> ClassMoments:
        W, place = self._W, self._backend.place
        X, codes = self._backend.samples(batch.X), place(W, batch.codes)
        found = self._backend.class_moments(place(W, W), X, codes, batch.classes, report=report, **self._arguments)
        return ClassMoments(found.classes, *(like(W, array) for array in (found.count, found.mean, found.m2)))

    def _merge(
        self, blocks: Callable[[int], Iterator[Batch]], checkpoint: Checkpoint | None, report: Report | None, n_samples: int
    ) -> ClassMoments | None:
        total, done = checkpoint.found() if checkpoint else (None, 0)
        if total is not None:
            total = ClassMoments(total.classes, *(like(self._W, array) for array in (total.count, total.mean, total.m2)))
        for block in blocks(done):
            moments = self._run(block, None)
            total = moments if total is None else total + moments
            if checkpoint:
                checkpoint.offer(total)
            if report:
                report(total.n_samples, n_samples)
        if checkpoint and total is not None:
            checkpoint.save(total)
        return total

    def _checkpoint(self, path: str | os.PathLike[str], **more: int) -> Checkpoint:
        made_with = {"W": fingerprint(self._W), "bias": fingerprint(self.bias), "block": self._block_rows, **self._described, **more}
        return Checkpoint(path, made_with)

    def _slices(self, batch: Batch, done: int) -> Iterator[Batch]:
        for first in range(done, len(batch.codes), self._block_rows):
            stop = min(first + self._block_rows, len(batch.codes))
            if is_sliced(batch.X):
                X = read_rows(batch.X, first, stop)
                checks.finite("X", X, first_row=first)
            else:
                X = batch.X[first:stop]
            yield Batch(X, batch.codes[first:stop], batch.classes)

    def _blocks(self, batches: Iterable[tuple[Array, Array]], done: int) -> Iterator[Batch]:
        block: _Block | None = None
        for X, y in self._checked(batches, done):
            if block and not block.takes(X):
                yield block.batch()
                block = None
            first = 0
            while first < len(X):
                if block is None and len(X) - first >= self._block_rows:
                    stop = first + self._block_rows
                    yield _batch(X[first:stop], [y[first:stop]])
                else:
                    block = block or _Block(self._block_rows, X)
                    stop = min(first + block.room, len(X))
                    block.append(X[first:stop], y[first:stop])
                    if not block.room:
                        yield block.batch()
                        block = None
                first = stop
        if block:
            yield block.batch()

    def _checked(self, batches: Iterable[tuple[Array, Array]], done: int) -> Iterator[tuple[Array, np.ndarray]]:
        """Yield every batch after the first ``done`` samples, checked, in the library the backend computes in."""
        for number, pair in enumerate(batches):
            try:
                X, y = pair
            except (TypeError, ValueError):
                raise TypeError(f"X: expected batches (X, y), got {type(pair).__name__} as batch {number}") from None
            try:
                if done and len(X) <= done:
                    done -= len(X)
                    continue
                X = checks.samples("X", X, self._W, half=self._backend.takes_tensors)
                y = checks.label_values("y", y, X.shape[0])
            except (TypeError, ValueError) as error:
                raise type(error)(f"batch {number}: {error}") from None
            yield self._backend.samples(X)[done:], y[done:]
            done = 0
        if done:
            raise ValueError(f"checkpoint: expected a stream with at least the samples it has, got {done} too few")


class _Block:
    """Samples of small batches, copied together: a loader may use a batch's memory again."""

    def __init__(self, rows: int, like_X: Array) -> None:
        where = {"device": like_X.device} if is_tensor(like_X) else {}
        self._X = array_namespace(like_X).empty((rows, like_X.shape[1]), dtype=like_X.dtype, **where)
        self._y: list[np.ndarray] = []
        self._filled = 0

    @property
    def room(self) -> int:
        return len(self._X) - self._filled

    def takes(self, X: Array) -> bool:
        """Whether X can be appended as it is: same library, dtype and device."""
        alike = is_tensor(X) == is_tensor(self._X) and X.dtype == self._X.dtype
        return bool(alike and (not is_tensor(X) or X.device == self._X.device))

    def append(self, X: Array, y: np.ndarray) -> None:
        self._X[self._filled : self._filled + len(X)] = X
        self._y.append(y.copy())
        self._filled += len(X)

    def batch(self) -> Batch:
        return _batch(self._X[: self._filled], self._y)


def _batch(X: Array, labels: list[np.ndarray]) -> Batch:
    classes, codes = checks.labels("y", join_labels(labels), len(X))
    return Batch(X, codes, classes)
