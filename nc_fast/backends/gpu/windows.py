"""Which candidates a round of the selection looks at closely: a window of each group's best, and a bound on all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from nc_fast.tolerances import TIE_TOLERANCE

WINDOW_PER_PICK = 4  # measured on MNIST scores: 100 picks from a window of 256 to 512 take one round
SMALLEST_WINDOW, LARGEST_WINDOW = 64, 1024
BATCH_BYTES = 256 << 20  # float64 windows, Gram matrices and factors held at once
FACTOR_ROWS = 4


@dataclass(frozen=True, eq=False)
class Candidates:
    """The E candidates that compete, groups in order, ascending inside. A candidate's *position* is its row here."""

    W: torch.Tensor  # (D, M) floating, all candidates
    index: torch.Tensor  # (E,) int64, column of W
    group: torch.Tensor  # (E,) int64
    score: torch.Tensor  # (E,) float64
    nonzero: torch.Tensor  # (E,) bool, whether the vector has a direction
    left: torch.Tensor  # (E + 1,) bool, not picked yet; updated in place, the last entry takes what must go nowhere


@dataclass(eq=False)
class Group:
    """A group of candidates that compete with each other, and what has been picked from it."""

    number: int
    members: slice  # positions of its candidates
    owed: int  # picks still to be made
    basis: torch.Tensor  # (r, D) float64, orthonormal rows that span the picks since the last restart
    indices: list[np.ndarray] = field(default_factory=list)  # candidates picked, round by round
    gains: list[np.ndarray] = field(default_factory=list)

    @property
    def n_left(self) -> int:
        """Members not picked yet."""
        return int(self.members.stop - self.members.start) - sum(len(part) for part in self.indices)


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is left of every group that still owes picks, best gain first: the first few are its window."""

    candidates: Candidates
    gain: torch.Tensor  # (E,) float64
    order: torch.Tensor  # (E,) int64, positions, group after group; what is picked or in other groups comes last
    start: dict[int, int]  # where a group starts in ``order``, by its number

    def window(self, groups: list[Group], size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (P, size) int64 positions, best first, and (P, size) int32, 0 past a group's last candidate."""
        start = np.array([self.start[group.number] for group in groups])[:, None]
        valid = np.arange(size) < np.array([group.n_left for group in groups])[:, None]
        at = np.where(valid, start + np.arange(size), start)
        device = self.order.device
        return self.order[torch.from_numpy(at).to(device)], torch.from_numpy(valid.astype(np.int32)).to(device)

    def bounds(self, groups: list[Group], size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (P,) float64, the best gain outside each window, and (P,) int64, the lowest candidate that ties with it."""
        bound = self.gain.new_full((len(groups),), -torch.inf)
        index = self.order.new_full((len(groups),), torch.iinfo(torch.int64).max)
        for row, group in enumerate(groups):
            start = self.start[group.number]
            outside = self.order[start + size : start + group.n_left]
            if len(outside):
                value = self.gain[outside]
                bound[row] = value.max()
                ties = value >= bound[row] - 2 * TIE_TOLERANCE * bound[row].abs()
                index[row] = torch.where(ties, self.candidates.index[outside], index[row]).min()
        return bound, index


def rank_candidates(candidates: Candidates, gain: torch.Tensor, groups: list[Group], n_groups: int) -> Ranking:
    """Sort by gain what is left of these groups, out of ``n_groups``; all that tie with a group's best come first, by index."""
    device = gain.device
    taking_part = torch.zeros(n_groups, dtype=torch.bool)
    taking_part[[group.number for group in groups]] = True
    left = candidates.left[:-1] & taking_part.to(device)[candidates.group]
    best = gain.new_full((n_groups,), -torch.inf)
    best = best.scatter_reduce_(0, candidates.group, torch.where(left, gain, -torch.inf), "amax")[candidates.group]
    # However many tie with the best, the lowest index among them is in the window.
    key = torch.where(gain >= best - TIE_TOLERANCE * best.abs(), torch.inf, gain)
    order = torch.argsort(key, descending=True, stable=True)
    order = order[torch.argsort(torch.where(left, candidates.group, n_groups)[order], stable=True)]
    ends = np.cumsum([0, *(group.n_left for group in groups)])
    return Ranking(candidates, gain, order, {group.number: int(end) for group, end in zip(groups, ends, strict=False)})


def batches(groups: list[Group], D: int) -> Iterator[tuple[list[Group], int]]:
    """Yield (groups, size of their windows): groups with windows of one size together, as many as BATCH_BYTES allows."""
    wanted = [min(WINDOW_PER_PICK * group.owed, group.n_left) for group in groups]
    sizes = np.clip(2 ** np.ceil(np.log2(wanted)).astype(np.int64), SMALLEST_WINDOW, LARGEST_WINDOW)
    for size in map(int, np.unique(sizes)):
        alike = [group for group, its in zip(groups, sizes, strict=True) if its == size]
        rows = max(len(group.basis) for group in alike)
        step = max(BATCH_BYTES // (8 * (3 * size * D + 2 * size * size + rows * D)), 1)
        for first in range(0, len(alike), step):
            yield alike[first : first + step], size


def window_constants(size: int) -> dict[str, Any]:
    """Return the compile-time arguments of ``kernels.select.window_greedy``: two places of the window a thread."""
    return {"B": size, "ROWS": FACTOR_ROWS, "num_warps": max(size // 64, 1)}
