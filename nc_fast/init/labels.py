"""Labels of samples and of their positions, and where they are found in what a layer reads.

A label belongs to a sample, or to a position of it: a token, a pixel. A layer reads rows: a sample, or every position of it, at
the layer's own grid, which strides, pooling and convolutions without padding make smaller than the labels'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from nc_fast.inputs.labels import classified
from nc_fast.quota import share_quota

Shape = tuple[int, ...]
Grids = Mapping[Shape, np.ndarray]  # a layer's grid -> the place of the label under each of its positions, flat; -1 outside


class LabelsDoNotFitError(ValueError):
    """Says why labels or a mask have no place in what a layer reads."""


@dataclass(frozen=True, eq=False)
class SampleLabels:
    """Labels of n samples.

    Attributes
    ----------
    values : (n,), or (n, *positions) with one for every token or pixel; row numbers where targets are floats.
    counted : (n, *positions) bool, which positions are samples; None where all are.
    """

    values: np.ndarray
    counted: np.ndarray | None = None

    def __len__(self) -> int:
        """Return n."""
        return len(self.values)

    def __getitem__(self, rows: slice | np.ndarray) -> SampleLabels:
        """Return those of some samples."""
        return SampleLabels(self.values[rows], None if self.counted is None else self.counted[rows])

    @property
    def positions(self) -> Shape:
        """The shape of a sample's labels or mask; () where neither has positions."""
        return max(self.values.shape[1:], () if self.counted is None else self.counted.shape[1:], key=len)

    @property
    def by_position(self) -> np.ndarray | None:
        """Which of the values count; None where all do, also where a mask says of single labels which positions they stand for."""
        return self.counted if self.counted is not None and self.counted.shape == self.values.shape else None

    def distinct(self) -> np.ndarray:
        """Return the sorted values that count."""
        return np.unique(self.values if self.by_position is None else self.values[self.by_position])

    def spread(self, rows: int, positions: Shape, grids: Grids) -> tuple[np.ndarray, np.ndarray | None]:
        """Return value, and whether it counts or None, of every row a layer reads: (n · rows, *positions) each.

        Raises
        ------
        LabelsDoNotFitError
            When the layer's positions are not those of labels or mask.
        """
        values = _spread("labels", self.values, rows, positions, grids)
        if values is None:
            raise LabelsDoNotFitError(f"labels for each of {self.values.shape[1:]} positions, its samples have none")
        counted = None if self.counted is None else _spread("the mask", self.counted, rows, positions, grids)
        return values[0], counted[0] & values[1] & counted[1] if counted else (None if values[1].all() else values[1])


def stratified(labels: np.ndarray, n: int, order: np.ndarray) -> np.ndarray:
    """Return n row numbers, as many of every class as the classes' sizes allow; the first of each class in a random ``order``."""
    codes = classified(labels)[0]
    smallest = np.min_scalar_type(int(codes.max()))  # 8- and 16-bit keys are sorted by radix, ten times faster
    grouped = order[np.argsort(codes[order].astype(smallest), kind="stable")]
    sizes = np.bincount(codes)
    quota = share_quota(sizes, n)
    starts = np.cumsum(sizes) - sizes
    return np.concatenate([grouped[start : start + share] for start, share in zip(starts, quota, strict=True)])


def _spread(what: str, array: np.ndarray, rows: int, positions: Shape, grids: Grids) -> tuple[np.ndarray, np.ndarray] | None:
    """Return an array (n, *given) at a layer's positions, and where it has a value there; None where the layer has no positions."""
    n, given = len(array), array.shape[1:]
    own = ((rows,) if rows > 1 else ()) + positions
    if given and not own:
        return None
    place = _place(given, own, grids)
    if place is None:
        raise LabelsDoNotFitError(f"{what} for each of {given} positions, its samples have {own}")
    first, found, at = place
    flat = array.reshape(n, -1)
    taken = flat if at is None else flat[:, at.clip(0)]
    present = np.ones(taken.shape[1:], bool) if at is None else at >= 0
    shape = (*(1,) * first, *found, *(1,) * (len(own) - first - len(found)))
    whole = (n * rows, *positions)
    values = np.broadcast_to(taken.reshape(n, *shape), (n, *own)).reshape(whole)
    return values, np.broadcast_to(present.reshape(1, *shape), (n, *own)).reshape(whole)


def _place(given: Shape, own: Shape, grids: Grids) -> tuple[int, Shape, np.ndarray | None] | None:
    """Return at which of a layer's dimensions labels start, how many positions are there, and which label each has (None: its own)."""
    if not given:
        return 0, (), None
    known: dict[Shape, np.ndarray | None] = {given: None, **{grid: at for grid, at in grids.items() if grid != given}}
    for grid, at in known.items():
        for first in range(len(own) - len(grid) + 1):
            if own[first : first + len(grid)] == grid:
                return first, grid, at
    for grid, at in known.items():  # rows that a reshape made of a grid
        if prod(grid) in own:
            return own.index(prod(grid)), (prod(grid),), at
    return None
