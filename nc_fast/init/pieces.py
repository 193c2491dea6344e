"""Samples of several shapes, such as sequences padded to the longest of their batch: held in pieces of one shape, never padded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nc_fast.init.batches import LabelledBatch, joined

FRONT = 8  # one in so many samples of each shape comes first


def in_pieces(batches: Sequence[LabelledBatch], rows: np.ndarray | None = None) -> list[LabelledBatch]:
    """Return the samples of batches in one piece for each shape; with ``rows`` those at these places of all, in this order."""
    by_shape: dict[tuple[object, ...], list[int]] = {}
    for number, batch in enumerate(batches):
        by_shape.setdefault(batch.shape, []).append(number)
    ends = np.cumsum([len(batch) for batch in batches])
    pieces = []
    for numbers in by_shape.values():
        piece = joined([batches[number] for number in numbers])
        if rows is not None:
            place = np.full(ends[-1], -1)  # in the piece, of each sample of the batches
            place[np.concatenate([np.arange(ends[i] - len(batches[i]), ends[i]) for i in numbers])] = np.arange(len(piece))
            chosen = place[rows]
            piece = piece.take(chosen[chosen >= 0])
        pieces.append(piece)
    return [piece for piece in pieces if len(piece)]


def fronts_first(pieces: Sequence[LabelledBatch]) -> list[LabelledBatch]:
    """Return pieces so cut that samples of every shape come first: those a head is judged by."""
    pieces = sorted(pieces, key=len, reverse=True)
    cuts = [len(piece) // FRONT for piece in pieces]
    fronts = [piece.take(slice(cut)) for piece, cut in zip(pieces, cuts, strict=True) if cut > 1]
    return fronts + [piece.take(slice(cut, None)) if cut > 1 else piece for piece, cut in zip(pieces, cuts, strict=True)]
