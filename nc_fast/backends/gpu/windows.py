"""Which candidates a round of the selection looks at closely: a window of each group's best, and a bound on all others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from nc_fast.backends.gpu.groups import Candidates, Groups, send
from nc_fast.backends.gpu.spans import BATCH_BYTES, LARGEST_GROWTH, TRUST, Ratios
from nc_fast.tolerances import RANK_TOLERANCE, TIE_TOLERANCE

WINDOW_PER_PICK = 4  # measured on MNIST scores: 100 picks from a window of 256 to 512 take one round
SMALLEST_WINDOW, LARGEST_WINDOW = 64, 1024
FACTOR_ROWS = 4


@dataclass(frozen=True, eq=False)
class Ranking:
    """What is left of every group that owes picks, best gain or bound of a gain first: the first ``size`` are its window."""

    order: torch.Tensor  # ((n + 1) S,) int64, positions, group after group; what is picked, of other groups or empty comes last
    start: np.ndarray  # (G,) int64, where a group starts in ``order``
    size: np.ndarray  # (G,) int64, a power of two; 0 where no pick is owed
    bound: torch.Tensor  # (G,) float64, the best gain outside the window
    bound_index: torch.Tensor  # (G,) int64, the lowest candidate outside that ties with it
    stale: torch.Tensor  # (G,) float64, the best gain outside that is a bound only; NaN where the ratios of all that is left are known

    def window(self, groups: Groups, number: np.ndarray, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (P, size) int64 positions in the windows of some groups, best first, and bool, False past a group's last candidate."""
        ends = send(np.stack([self.start[number], (self.start + groups.left)[number]]), self.order.device)
        at = ends[0][:, None] + torch.arange(size, device=self.order.device)
        valid = at < ends[1][:, None]
        return self.order[torch.where(valid, at, len(self.order) - 1)], valid


def rank_candidates(candidates: Candidates, ratios: Ratios, groups: Groups, left: torch.Tensor) -> Ranking:
    """Sort what is ``left``, (n + 1, S) bool, of the groups by gain; all that tie with a group's best come first, by index.

    While a group has given candidates left, they come first, by turn, and nothing else has an order.
    """
    group, n_groups, device = candidates.group[:, None], len(groups.owed), left.device
    score, ratio = candidates.score, ratios.squared.sqrt()
    gain = torch.where(left, torch.where(score >= 0, score * ratio, score / ratio), -torch.inf)  # -inf for negative / 0
    best = candidates.most(gain, n_groups)[group]
    # However many tie with the best, the lowest index among them is in the window.
    key = torch.where(gain >= best - TIE_TOLERANCE * best.abs(), torch.inf, gain)
    if candidates.turn is not None:
        turn = torch.where(left, candidates.turn, 0.0)
        key = torch.where(candidates.most(turn, n_groups)[group] > 0, turn, key)
    order = torch.argsort(key.view(-1), descending=True, stable=True)
    order = order[torch.argsort(torch.where(left, group, n_groups).view(-1)[order], stable=True)]
    in_play = np.where(groups.owed > 0, groups.left, 0)
    start, size = in_play.cumsum() - in_play, window_sizes(groups)
    place = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device)).view_as(left)
    outside = left & (place >= send(start + size, device)[group])
    bound = candidates.most(torch.where(outside, gain, -torch.inf), n_groups)
    floor = (bound - 2 * TIE_TOLERANCE * bound.abs())[group]
    bound_index = -candidates.most(torch.where(outside & (gain >= floor), -candidates.index, -torch.iinfo(torch.int64).max), n_groups)
    unknown = left & ~ratios.known
    stale = candidates.most(torch.where(outside & unknown, gain, -torch.inf), n_groups)
    stale = torch.where(candidates.most(unknown.int(), n_groups) > 0, stale, torch.nan)
    return Ranking(order, start, size, bound, bound_index, stale)


def window_sizes(groups: Groups) -> np.ndarray:
    """Return (G,) int64, how many candidates of each group a round looks at closely."""
    wanted = np.minimum(WINDOW_PER_PICK * groups.owed, groups.left)
    sizes = 2 ** np.ceil(np.log2(np.maximum(wanted, 1))).astype(np.int64)
    return np.where(groups.owed > 0, np.clip(sizes, SMALLEST_WINDOW, LARGEST_WINDOW), 0)


def batches(groups: Groups, sizes: np.ndarray, D: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yield (groups, size of their windows): groups with windows of one size together, as many as BATCH_BYTES allows."""
    for size in map(int, np.unique(sizes[sizes > 0])):
        alike = np.flatnonzero(sizes == size)
        rows = int(groups.rank[alike].max())
        step = max(BATCH_BYTES // (8 * (3 * size * D + 2 * size * size + rows * (D + size))), 1)
        for first in range(0, len(alike), step):
            yield alike[first : first + step], size


def window_constants(size: int) -> dict[str, Any]:
    """Return the compile-time arguments of ``kernels.select.window_greedy``: two places of the window a thread."""
    tolerances = {"rank_squared": RANK_TOLERANCE**2, "tie": TIE_TOLERANCE, "trust": TRUST, "largest_growth": LARGEST_GROWTH}
    return {"B": size, "ROWS": FACTOR_ROWS, "num_warps": max(size // 64, 1), **tolerances}
