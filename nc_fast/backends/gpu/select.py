"""Greedy null-space selection on a GPU: fresh gains of everything, then many picks inside a window of the best, per round.

All arithmetic on ratios and gains is float64. The picks are the eager loop's: ``kernels.select.window_greedy`` says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch

from nc_fast.backends.gpu.kernels.select import window_greedy
from nc_fast.backends.gpu.runtime import on_device
from nc_fast.backends.gpu.tiles import window_constants
from nc_fast.tolerances import RANK_TOLERANCE, TIE_TOLERANCE
from nc_fast.types import Picks

TRUST = 1e-3  # a pivot this small turns rounding 2e-16 into 1e-11 of a squared ratio: below the ties' 1e-9
WINDOW_PER_PICK = 4  # measured on MNIST scores: 100 picks from a window of 256 to 512 take one round
SMALLEST_WINDOW, LARGEST_WINDOW = 64, 1024
BATCH_BYTES = 256 << 20  # float64 windows, Gram matrices and factors held at once
CHUNK_BYTES = 64 << 20  # float64 columns of W held at once

Report = Callable[[int, int], None]


def select(
    W: torch.Tensor,
    score: torch.Tensor,
    pool: torch.Tensor,
    quota: torch.Tensor,
    *,
    report: Report | None = None,
) -> Picks:
    """Pick ``quota[p]`` candidates from every pool p, greedily, in the null space of what the pool has picked.

    Parameters
    ----------
    W : (D, M) floating
        Columns are candidates, in any memory layout, on the device that computes.
    score : (M,) float64
    pool : (M,) int64
        The pool each candidate competes in; -1: not eligible.
    quota : (P,) int64
        Picks per pool, at most its members.
    report : callable, optional
        Called with (picks done, picks in all) after every round.

    Returns
    -------
    Picks
        ``indices`` and ``gains`` on W's device, pools in order, within a pool in order of picking.

    Raises
    ------
    ValueError
        When W lies neither on a GPU nor, under the interpreter, on the CPU.

    Notes
    -----
    Source: Mao et al., CIKM 2021, section 3.3, with the rules of docs/algorithm.md for ties, parallel vectors and rank.
    """
    with on_device(W), torch.no_grad():
        return _Selection(W, score, pool, quota).run(report)


@dataclass(frozen=True, eq=False)
class _Batch:
    """Pools whose windows are worked on together."""

    pools: np.ndarray  # (P,) pool numbers
    window: int  # places in each window


@dataclass(frozen=True, eq=False)
class _Round:
    """What one batch picked, on the device until all batches have run."""

    batch: _Batch
    residual: torch.Tensor  # (P, B, D) float64
    picked: torch.Tensor  # (P, T) int64 candidates
    place: torch.Tensor  # (P, T) int32
    gain: torch.Tensor  # (P, T) float64
    in_span: torch.Tensor  # (P, T) int32
    count: torch.Tensor  # (P,) int32


class _Selection:
    def __init__(self, W: torch.Tensor, score: torch.Tensor, pool: torch.Tensor, quota: torch.Tensor) -> None:
        self.W = W
        self.quota = quota.cpu().numpy()
        by_pool = torch.argsort(pool, stable=True)
        sizes = torch.bincount(pool + 1, minlength=len(self.quota) + 1).cpu().numpy()
        self.candidate = by_pool[int(sizes[0]) :]  # (E,) eligible candidates, pools in order, ascending inside
        self.size = sizes[1:]
        self.first = np.cumsum(self.size) - self.size
        self.pool = pool[self.candidate]
        self.score = score[self.candidate]
        self.nonzero = torch.linalg.vector_norm(W, torch.inf, dim=0)[self.candidate] > 0
        self.ratio = self.nonzero.double()
        self.left = torch.ones(len(self.candidate) + 1, dtype=torch.bool, device=W.device)  # one more, to be written in vain
        self.basis = [torch.zeros((0, W.shape[0]), dtype=torch.float64, device=W.device) for _ in self.quota]
        self.indices: list[list[np.ndarray]] = [[] for _ in self.quota]
        self.gains: list[list[np.ndarray]] = [[] for _ in self.quota]
        self.done = np.zeros(len(self.quota), np.int64)
        self.restarts = 0

    def run(self, report: Report | None) -> Picks:
        while (active := np.flatnonzero(self.done < self.quota)).size:
            self._round(active)
            if report:
                report(int(self.done.sum()), int(self.quota.sum()))
        indices = [np.zeros(0, np.int64), *(part for parts in self.indices for part in parts)]
        gains = [np.zeros(0), *(part for parts in self.gains for part in parts)]
        found = torch.from_numpy(np.concatenate(indices)), torch.from_numpy(np.concatenate(gains))
        return Picks(found[0].to(self.W.device), found[1].to(self.W.device), self.restarts)

    def _round(self, active: np.ndarray) -> None:
        """Compute every active pool's gains afresh, let each pick from its window, then wait for the device once."""
        for p in active:
            if len(self.basis[p]):
                self._refresh(p)
        exhausted = self._restart(active)
        gain = torch.where(self.score >= 0, self.score * self.ratio, self.score / self.ratio)
        windows = _Windows(self, active, gain)
        rounds = [self._pick(batch, windows, exhausted) for batch in self._batches(active)]
        exhausted_here = exhausted.cpu().numpy()
        for done in rounds:
            self._book(done, exhausted_here)

    def _refresh(self, p: int) -> None:
        """Set the ratios of a pool's members from their residuals outside its span, computed explicitly."""
        Q = self.basis[p]
        members = slice(self.first[p], self.first[p] + self.size[p])
        step = max(CHUNK_BYTES // 8 // self.W.shape[0], 1)
        for first in range(members.start, members.stop, step):
            chunk = slice(first, min(first + step, members.stop))
            units = _unit_rows(self.W, self.candidate[chunk])
            units -= (units @ Q.T) @ Q
            ratio = torch.linalg.vector_norm(units, dim=1)
            self.ratio[chunk] = torch.where(ratio > RANK_TOLERANCE, ratio, 0.0)

    def _restart(self, active: np.ndarray) -> torch.Tensor:
        """Return (P,) bool, the pools whose remaining ratios are all 0; theirs become those of an empty span."""
        spanned = torch.zeros(len(self.quota), dtype=torch.bool)
        spanned[torch.from_numpy(active)] = torch.tensor([len(self.basis[p]) > 0 for p in active])
        highest = torch.zeros(len(self.quota), dtype=torch.float64, device=self.W.device)
        highest.scatter_reduce_(0, self.pool, torch.where(self.left[:-1], self.ratio, 0.0), "amax")
        exhausted = spanned.to(self.W.device) & (highest == 0)
        self.ratio = torch.where(exhausted[self.pool], self.nonzero.double(), self.ratio)
        return exhausted

    def _batches(self, active: np.ndarray) -> Iterator[_Batch]:
        """Cut the active pools into batches of equal windows, bounded in memory."""
        D = self.W.shape[0]
        need = self.quota[active] - self.done[active]
        wanted = np.minimum(WINDOW_PER_PICK * need, self.size[active] - self.done[active])
        window = np.clip(2 ** np.ceil(np.log2(wanted)).astype(np.int64), SMALLEST_WINDOW, LARGEST_WINDOW)
        for size in np.unique(window):
            pools = active[window == size]
            rows = max(len(self.basis[p]) for p in pools)
            each = 8 * (3 * size * D + 2 * size * size + rows * D)
            step = max(BATCH_BYTES // int(each), 1)
            for first in range(0, len(pools), step):
                yield _Batch(pools[first : first + step], int(size))

    def _pick(self, batch: _Batch, windows: _Windows, exhausted: torch.Tensor) -> _Round:
        device, D, B = self.W.device, self.W.shape[0], batch.window
        pools = torch.from_numpy(batch.pools).to(device)
        place, valid = windows.members(batch)
        bound, bound_index = windows.bounds(batch)
        residual = _unit_rows(self.W, self.candidate[place].reshape(-1)).reshape(len(pools), B, D)
        Q = self._stacked_basis(batch) * ~exhausted[pools, None, None]
        if Q.shape[1]:
            for _ in range(2):  # a second time: twice is enough
                residual = residual - (residual @ Q.mT) @ Q
        need = self.quota[batch.pools] - self.done[batch.pools]
        T = min(int(need.max()), B)
        made = _Round(
            batch=batch,
            residual=residual,
            picked=torch.empty((len(pools), T), dtype=torch.int64, device=device),
            place=torch.zeros((len(pools), T), dtype=torch.int32, device=device),
            gain=torch.zeros((len(pools), T), dtype=torch.float64, device=device),
            in_span=torch.zeros((len(pools), T), dtype=torch.int32, device=device),
            count=torch.zeros(len(pools), dtype=torch.int32, device=device),
        )
        window_greedy[(len(pools),)](
            residual @ residual.mT,
            self.ratio[place] ** 2,
            self.score[place],
            self.candidate[place],
            valid,
            bound,
            bound_index,
            torch.from_numpy(np.minimum(need, T).astype(np.int32)).to(device),
            torch.empty((len(pools), T, B), dtype=torch.float64, device=device),
            made.place,
            made.gain,
            made.in_span,
            made.count,
            T,
            RANK_TOLERANCE**2,
            TIE_TOLERANCE,
            TRUST,
            **window_constants(B),
        )
        members = place.gather(1, made.place.long())
        made.picked.copy_(self.candidate[members])
        was_made = torch.arange(T, device=device) < made.count[:, None]
        self.left[torch.where(was_made, members, len(self.candidate))] = False
        return made

    def _stacked_basis(self, batch: _Batch) -> torch.Tensor:
        """Return (P, rows, D), the pools' bases padded with zero rows, which project nothing."""
        return torch.nn.utils.rnn.pad_sequence([self.basis[p] for p in batch.pools], batch_first=True)

    def _book(self, made: _Round, exhausted: np.ndarray) -> None:
        count, picked, gain = made.count.cpu().numpy(), made.picked.cpu().numpy(), made.gain.cpu().numpy()
        in_span = made.in_span.cpu().numpy().astype(bool)
        for row, p in enumerate(made.batch.pools):
            n = count[row]
            self.indices[p].append(picked[row, :n])
            self.gains[p].append(gain[row, :n])
            self.done[p] += n
            if exhausted[p]:
                self.basis[p] = self.basis[p][:0]
                self.restarts += 1
            extending = np.flatnonzero(in_span[row, :n])
            if self.done[p] < self.quota[p] and extending.size:
                rows = made.place[row, torch.from_numpy(extending).to(made.place.device)].long()
                Q, _ = torch.linalg.qr(made.residual[row, rows].T)
                self.basis[p] = torch.cat([self.basis[p], Q.T])


class _Windows:
    """The active pools' candidates in order of gain, ties by index: the first are a pool's window, the rest its bound."""

    def __init__(self, selection: _Selection, active: np.ndarray, gain: torch.Tensor) -> None:
        self._candidate, self._gain = selection.candidate, gain
        n_pools, device = len(selection.quota), gain.device
        self._count = np.zeros(n_pools, np.int64)
        self._count[active] = selection.size[active] - selection.done[active]
        self._first = np.cumsum(self._count) - self._count
        left = selection.left[:-1] & torch.from_numpy(self._count > 0).to(device)[selection.pool]
        best = torch.full((n_pools,), -torch.inf, dtype=torch.float64, device=device)
        best = best.scatter_reduce_(0, selection.pool, torch.where(left, gain, -torch.inf), "amax")[selection.pool]
        # All that tie with the best come first by index, so the tie's lowest index is in the window however many tie.
        key = torch.where(gain >= best - TIE_TOLERANCE * best.abs(), torch.inf, gain)
        order = torch.argsort(key, descending=True, stable=True)
        pool = torch.where(left, selection.pool, n_pools)[order]
        self._order = order[torch.argsort(pool, stable=True)]

    def members(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (P, B) int64 places among the eligible, best first, and (P, B) int32, 0 past the pool's last."""
        device = self._order.device
        rank = np.arange(batch.window)
        valid = rank < self._count[batch.pools, None]
        at = np.where(valid, self._first[batch.pools, None] + rank, self._first[batch.pools, None])
        return self._order[torch.from_numpy(at).to(device)], torch.from_numpy(valid.astype(np.int32)).to(device)

    def bounds(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Return (P,) float64, the best gain outside each window, and (P,) int64, the lowest candidate that ties with it."""
        device = self._order.device
        bound = torch.full((len(batch.pools),), -torch.inf, dtype=torch.float64, device=device)
        index = torch.full((len(batch.pools),), torch.iinfo(torch.int64).max, dtype=torch.int64, device=device)
        for row, p in enumerate(batch.pools):
            outside = self._order[self._first[p] + batch.window : self._first[p] + self._count[p]]
            if len(outside):
                value = self._gain[outside]
                bound[row] = value.max()
                ties = value >= bound[row] - 2 * TIE_TOLERANCE * bound[row].abs()
                index[row] = torch.where(ties, self._candidate[outside], index[row]).min()
        return bound, index


def _unit_rows(W: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Return the candidates' vectors as float64 rows of length 1; a zero vector stays zero."""
    rows = W[:, candidates].T.double()
    tiny = torch.finfo(torch.float64).tiny
    rows = rows / rows.abs().amax(1, keepdim=True).clamp(min=tiny)  # squares neither over- nor underflow
    norm: torch.Tensor = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    return rows / norm.clamp(min=tiny)
