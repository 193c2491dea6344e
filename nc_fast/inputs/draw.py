"""A uniform draw of samples from a source that is read once: every sample gets a random key, those with the lowest are kept."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from nc_fast.inputs.arrays import Array, array_namespace, like
from nc_fast.inputs.labels import classified, join_labels
from nc_fast.inputs.sources import Block


@dataclass(frozen=True, eq=False)
class Drawn:
    """Samples drawn from a source, in its order, and what its reading told.

    Attributes
    ----------
    X : (n, D), in the library of the source's samples.
    y : (n,) labels, or (n, T) float64 targets.
    keys : (n,) float64 in [0, 1).
    classes : (C,) sorted distinct labels of the whole source; empty where y are targets.
    size : samples in the whole source.
    """

    X: Array
    y: np.ndarray
    keys: np.ndarray
    classes: np.ndarray
    size: int


def draw(blocks: Iterable[Block], n: int, seed: int, first: int = 0) -> Drawn | None:
    """Return n samples at most, drawn uniformly and without replacement; None where the source has none.

    Sample number i, counted from ``first``, has the i-th key of the seed's stream: which are drawn depends neither on how
    they come in blocks nor on which rank has them.
    """
    keys = np.random.Generator(np.random.PCG64(seed).advance(first))
    drawn: Drawn | None = None
    for block in blocks:
        values = block.classes[block.y] if len(block.classes) else block.y
        own = Drawn(block.X, values, keys.random(block.size), block.classes, block.size)
        drawn = lowest(own, n) if drawn is None else join([lowest(drawn, n), lowest(own, n)], n)
    return drawn


def lowest(drawn: Drawn, n: int) -> Drawn:
    """Return the n samples of the lowest keys, in their order, as copies."""
    rows = np.sort(np.argpartition(drawn.keys, n)[:n]) if n < len(drawn.keys) else np.arange(len(drawn.keys))
    return Drawn(drawn.X[like(drawn.X, rows)], drawn.y[rows], drawn.keys[rows], drawn.classes, drawn.size)


def join(parts: list[Drawn], n: int) -> Drawn:
    """Return draws from the parts of a source as one of the whole."""
    X = array_namespace(parts[0].X).concatenate([like(parts[0].X, part.X) for part in parts])
    classes = classified(join_labels([part.classes for part in parts]))[1]
    y = join_labels([part.y for part in parts])
    return lowest(Drawn(X, y, np.concatenate([part.keys for part in parts]), classes, sum(part.size for part in parts)), n)
