"""A projector on given vectors, and one matrix in every memory layout."""

from __future__ import annotations

import numpy as np

from nc_fast._projector import NullSpaceProjector


def projector_on(vectors: np.ndarray) -> NullSpaceProjector:
    projector = NullSpaceProjector(len(vectors))
    for vector in vectors.T:
        projector.add(vector)
    return projector


def layouts(W: np.ndarray) -> dict[str, np.ndarray]:
    """The same matrix in every memory layout that NumPy can hand over."""
    padded = np.zeros((2 * W.shape[0] + 1, 3 * W.shape[1] + 2), W.dtype)
    padded[1::2, 1:-1:3] = W
    packed = np.zeros(W.shape, np.dtype([("pad", "u1"), ("value", W.dtype)]))  # not aligned
    packed["value"] = W
    read_only = W.copy()
    read_only.flags.writeable = False
    return {
        "C": np.ascontiguousarray(W),
        "Fortran": np.asfortranarray(W),
        "sliced": padded[1::2, 1:-1:3],
        "sliced Fortran": padded.T.copy().T[1::2, 1:-1:3],
        "rows reversed": np.asfortranarray(W[::-1])[::-1],
        "columns reversed": np.asfortranarray(W[:, ::-1])[:, ::-1],
        "packed": packed["value"],
        "read-only": read_only,
    }
