"""A file that a long moments stage is saved in now and then, and goes on from when it is called again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from time import monotonic
from typing import Any

import numpy as np

from nc_fast.files.moments import load_moments, moments_path, save_moments
from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.labels import kind_of
from nc_fast.inputs.sources import FIRST_ROWS, SAMPLED_ROWS, Block
from nc_fast.inputs.sparse import CSR
from nc_fast.types import ClassMoments

EVERY_SECONDS = 30.0
LARGEST_SHARE = 0.05  # of the time may go into saving: large moments are saved less often


def checkpoint_path(value: object) -> Path | None:
    """Check where the user wants a checkpoint, before anything is computed."""
    if value is None:
        return None
    path = moments_path(value, "checkpoint")
    if not path.resolve().parent.is_dir():
        raise ValueError(f"checkpoint: expected a file in a folder that exists, got {path}")
    return path


class SampleDigest:
    """A digest of samples by which they are recognised: of every label, and of X's rows 0 to 255, 4096, 8192, ...

    It depends neither on how the samples come in blocks nor on the width of dtypes.
    """

    def __init__(self) -> None:
        self.samples = 0
        self._labels, self._rows = hashlib.blake2b(), hashlib.blake2b()

    def update(self, X: Any, y: np.ndarray, classes: np.ndarray) -> None:
        """Add the next samples: X (n, D), array, tensor or CSR, and indices y (n,) into their classes."""
        if not len(y):
            return
        present = np.flatnonzero(np.bincount(y))
        named = (hashlib.blake2b(f"{kind_of(classes)} {classes[code]}".encode(), digest_size=8).digest() for code in present)
        of_class = np.zeros(len(classes), np.uint64)
        of_class[present] = np.frombuffer(b"".join(named), np.uint64)
        self._labels.update(of_class[y].tobytes())
        first_rows, sampled = range(min(FIRST_ROWS - self.samples, len(y))), range(-self.samples % SAMPLED_ROWS, len(y), SAMPLED_ROWS)
        for place in sorted({*first_rows, *sampled}):
            row = slice(place, place + 1)
            numbers = X.dense(row) if isinstance(X, CSR) else as_numpy(X[row])
            self._rows.update((numbers.astype(np.float64) + 0.0).tobytes())  # -0.0 becomes 0.0
        self.samples += len(y)

    def __str__(self) -> str:
        """Return it in 128 digits."""
        return hashlib.blake2b(self._labels.digest() + self._rows.digest()).hexdigest()


class Checkpoint:
    """Moments of the first samples of a stream, in a file; the samples to come are merged as if nothing had happened.

    Parameters
    ----------
    path : as :func:`checkpoint_path` returns it
    made_with : what the moments depend on; a file made with anything else is refused.
    """

    def __init__(self, path: Path, made_with: Mapping[str, Any]) -> None:
        self._path = path
        self._made_with = dict(made_with)
        self._saved_at = monotonic()
        self._save_seconds = 0.0
        self._seen = SampleDigest()
        self._found: tuple[int, str] | None = None  # samples in the file, and their digest

    def found(self) -> tuple[ClassMoments | None, int]:
        """Return the moments saved and how many samples they are of; (None, 0) when there is no file.

        The same samples are then to be given to :meth:`skip`.
        """
        if not self._path.exists():
            return None, 0
        arrays, notes = load_moments(self._path)
        theirs, samples = notes.get("made_with"), notes.get("samples")
        if not isinstance(theirs, dict) or not isinstance(samples, int) or samples != arrays["count"].sum():
            raise ValueError(f"checkpoint: expected {self._path} written by a checkpoint, got moments without their place in a stream")
        size = self._made_with.get("samples", samples)
        theirs = {"samples": max(size, samples), **theirs}  # in a stream's file nobody knows how many there are, but it has so many
        for name, value in self._made_with.items():
            if theirs.get(name) != value:
                got = f"{value}, got {theirs.get(name)}"
                raise ValueError(f"checkpoint: expected {self._path} made with the same {name}, {got}; delete it to start again")
        digest = notes.get("digest")
        if not isinstance(digest, str):
            expected = f"checkpoint: expected {self._path} to tell which samples it is of"
            raise ValueError(f"{expected}, got one of an older version, which does not; delete it to start again")
        self._found = samples, digest
        return ClassMoments(**arrays), samples

    def skip(self, X: Any, y: np.ndarray, classes: np.ndarray) -> None:
        """Look at samples that the file has, as :class:`SampleDigest` does; after the last of them, check that it is of these."""
        self._seen.update(X, y, classes)
        if self._found and self._seen.samples == self._found[0] and str(self._seen) != self._found[1]:
            got = f"got other labels or numbers among the first {self._seen.samples}"
            raise ValueError(f"checkpoint: expected {self._path} made with the same samples, {got}; delete it to start again")

    def offer(self, moments: ClassMoments, added: Block) -> None:
        """Save when it is time to; ``added`` are the samples that were added last."""
        self._seen.update(added.X, added.y, added.classes)
        since = monotonic() - self._saved_at
        if since >= max(EVERY_SECONDS, self._save_seconds / LARGEST_SHARE):
            self.save(moments)

    def save(self, moments: ClassMoments) -> None:
        """Save, all at once."""
        started = monotonic()
        arrays = {"count": moments.count, "mean": moments.mean, "m2": moments.m2}
        arrays = {"classes": moments.classes, **{name: as_numpy(array) for name, array in arrays.items()}}
        notes = {"made_with": self._made_with, "samples": moments.n_samples, "digest": str(self._seen)}
        save_moments(self._path, arrays, notes)
        self._saved_at = monotonic()
        self._save_seconds = self._saved_at - started


def fingerprint(array: Any) -> str:
    """Return a digest of an array's numbers, its dtype and its shape."""
    array = np.ascontiguousarray(as_numpy(array))
    return hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + array.tobytes()).hexdigest()
