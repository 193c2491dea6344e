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

    def found(self) -> tuple[ClassMoments | None, int]:
        """Return the moments saved and how many samples they are of; (None, 0) when there is no file."""
        if not self._path.exists():
            return None, 0
        arrays, notes = load_moments(self._path)
        theirs, samples = notes.get("made_with"), notes.get("samples")
        if not isinstance(theirs, dict) or not isinstance(samples, int) or samples != arrays["count"].sum():
            raise ValueError(f"checkpoint: expected {self._path} written by a checkpoint, got moments without their place in a stream")
        for name, value in self._made_with.items():
            if theirs.get(name) != value:
                got = f"{value}, got {theirs.get(name)}"
                raise ValueError(f"checkpoint: expected {self._path} made with the same {name}, {got}; delete it to start again")
        return ClassMoments(**arrays), samples

    def offer(self, moments: ClassMoments) -> None:
        """Save when it is time to."""
        since = monotonic() - self._saved_at
        if since >= max(EVERY_SECONDS, self._save_seconds / LARGEST_SHARE):
            self.save(moments)

    def save(self, moments: ClassMoments) -> None:
        """Save, all at once."""
        started = monotonic()
        arrays = {"count": moments.count, "mean": moments.mean, "m2": moments.m2}
        arrays = {"classes": moments.classes, **{name: as_numpy(array) for name, array in arrays.items()}}
        save_moments(self._path, arrays, {"made_with": self._made_with, "samples": moments.n_samples})
        self._saved_at = monotonic()
        self._save_seconds = self._saved_at - started


def fingerprint(array: Any) -> str:
    """Return a digest of an array's numbers, its dtype and its shape."""
    array = np.ascontiguousarray(as_numpy(array))
    return hashlib.sha256(f"{array.dtype.str} {array.shape}".encode() + array.tobytes()).hexdigest()
