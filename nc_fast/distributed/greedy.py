"""The greedy selection over candidates that are spread over ranks, exact: the picks of one process that holds them all.

Every rank sends the candidates of its highest gains, a shortlist, and a bound on the gains it keeps back. Ratios never
grow, so the bound holds while picks are made; each rank then makes the same picks among all shortlists, pool by pool, as
long as the best gain, less the tie tolerance, is above every bound. Where it is not, the next shortlists follow. A pool
that comes no further by shortlists (ties with what was kept back, gains of 0, an exhausted rank) gets its next pick by
asking every rank for its largest gain, and then for its lowest candidate tied with the largest of all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nc_fast.distributed.members import Members, Span
from nc_fast.distributed.ranks import Ranks, count_selection
from nc_fast.tolerances import least_tied

WHAT = "selection"
SHORTLIST_FACTOR = 2.0  # candidates sent at first, of a rank's even share of the picks
LEAST_SHORTLIST = 4
NONE = np.iinfo(np.int64).max


@dataclass
class _Pool:
    """One pool on one rank: what it has kept back, what all ranks know, what was picked."""

    span: Span
    own: Members  # here; sent ones are no longer "left"
    known: Members  # sent by any rank
    records: np.ndarray  # what is known, as it was sent
    quota: int
    kept_back: int  # by all ranks together
    bound: float  # of the gains kept back
    picks: list[int] = field(default_factory=list)  # rows of records
    gains: list[float] = field(default_factory=list)
    restarts: int = 0

    @property
    def wanted(self) -> int:
        return self.quota - len(self.picks)


@dataclass(frozen=True)
class Shard:
    """The candidates of this rank.

    Attributes
    ----------
    W : (D, n) float32 or float64, columns are candidates.
    score, bias : (n,) float64.
    group : (n,) int64, the class each belongs to.
    pool : (n,) int64, the pool each competes in, -1 for none.
    first : number of the first of them in the whole pool.
    """

    W: np.ndarray
    score: np.ndarray
    bias: np.ndarray
    group: np.ndarray
    pool: np.ndarray
    first: int

    @property
    def record(self) -> np.dtype[Any]:
        """What is sent of a candidate."""
        w = ("w", self.W.dtype, (len(self.W),))
        return np.dtype([("index", np.int64), ("score", np.float64), ("bias", np.float64), ("group", np.int64), w])

    def records(self, columns: np.ndarray, length: int) -> np.ndarray:
        """Return the candidates as they are sent, filled up with empty places."""
        sent = np.zeros(length, self.record)
        sent["index"] = NONE
        filled = sent[: len(columns)]
        filled["index"], filled["score"], filled["bias"] = self.first + columns, self.score[columns], self.bias[columns]
        filled["group"] = self.group[columns]
        filled["w"] = self.W[:, columns].T
        return sent


class ShardedGreedy:
    """The greedy selection; one object a campaign.

    Parameters
    ----------
    ranks : the process group.
    shard : this rank's candidates.
    quota : (P,) int64, picks per pool, over all ranks.
    sizes : (P,) int64, members per pool, over all ranks.
    """

    def __init__(self, ranks: Ranks, shard: Shard, quota: np.ndarray, sizes: np.ndarray) -> None:
        self._ranks = ranks
        self._shard = shard
        self._pools = []
        for p, picks in enumerate(quota):
            span = Span(len(shard.W))
            columns = np.flatnonzero(shard.pool == p)
            own = Members(span, shard.W, columns, shard.score[columns], shard.first + columns)
            nothing = shard.records(columns[:0], 0)
            self._pools.append(_Pool(span, own, _members(span, nothing), nothing, int(picks), int(sizes[p]), np.inf))

    def run(self, report: Callable[[int, int], None] | None) -> tuple[np.ndarray, np.ndarray, int]:
        """Return the picked records, pools in order, within a pool in order of picking, their gains, and the restarts."""
        total = sum(pool.quota for pool in self._pools)
        while active := [pool for pool in self._pools if pool.wanted]:
            before = [len(pool.picks) for pool in active]
            open_ = [pool for pool in active if pool.kept_back]
            if open_:
                self._share_shortlists(open_)
            for pool in active:
                _pick_what_is_decided(pool)
            stuck = [pool for pool, n in zip(active, before, strict=True) if pool.wanted and len(pool.picks) == n]
            if stuck:
                self._pick_one_each(stuck)
            if report:
                report(sum(len(pool.picks) for pool in self._pools), total)
        picked = [pool.records[pool.picks] for pool in self._pools]
        gains = [np.array(pool.gains, np.float64) for pool in self._pools]
        return np.concatenate(picked), np.concatenate(gains), sum(pool.restarts for pool in self._pools)

    def _share_shortlists(self, pools: list[_Pool]) -> None:
        header = np.zeros(len(pools), np.dtype([("kept_back", np.int64), ("bound", np.float64)]))
        lists = []
        for place, pool in zip(header, pools, strict=True):
            length = max(LEAST_SHORTLIST, int(np.ceil(SHORTLIST_FACTOR * pool.wanted / self._ranks.size)))
            best = pool.own.best(length + 1)
            rows = best[:length]
            place["bound"] = pool.own.gain(int(best[length])) if len(best) > length else -np.inf
            lists.append(self._shard.records(pool.own.columns[rows], length))
            pool.own.left[rows] = False
            place["kept_back"] = pool.own.n_left
        headers = self._ranks.all_gather_numpy(header, WHAT)
        sent = self._ranks.all_gather_numpy(np.concatenate(lists), WHAT)
        count_selection(headers=len(pools), records=sent.shape[1])
        parts = np.split(sent, np.cumsum([len(shortlist) for shortlist in lists])[:-1], axis=1)
        for pool, shortlists, kept_back, bound in zip(pools, parts, headers["kept_back"].sum(0), headers["bound"].max(0), strict=True):
            _add_known(pool, shortlists.reshape(-1))
            pool.kept_back, pool.bound = int(kept_back), float(bound)

    def _pick_one_each(self, pools: list[_Pool]) -> None:
        """Make one pick in every pool by the rule itself."""
        best = self._largest(pools)
        restarted = [pool for pool, (_, alive) in zip(pools, best, strict=True) if not alive and not pool.span.is_empty]
        for pool in restarted:
            _restart(pool)
        if restarted:
            best = self._largest(pools)
        lowest = [pool.own.columns[pool.own.tied(gain)[:1]] for pool, (gain, _) in zip(pools, best, strict=True)]
        sent = self._ranks.all_gather_numpy(np.concatenate([self._shard.records(columns, 1) for columns in lowest]), WHAT)
        count_selection(records=len(pools))
        for pool, (gain, _), found in zip(pools, best, sent.T, strict=True):
            known = pool.known.index[pool.known.tied(gain)]
            winner = min(int(found["index"].min()), int(known[0]) if len(known) else NONE)
            if not (pool.known.index == winner).any():
                pool.own.left[pool.own.index == winner] = False
                pool.kept_back -= 1
                _add_known(pool, found[found["index"] == winner])
            _pick(pool, int(np.flatnonzero(pool.known.index == winner)[0]))

    def _largest(self, pools: list[_Pool]) -> list[tuple[float, bool]]:
        """Return the largest gain of every pool over all ranks, and whether any candidate left is outside the span."""
        header = np.zeros(len(pools), np.dtype([("alive", np.int64), ("gain", np.float64)]))
        for place, pool in zip(header, pools, strict=True):
            place["gain"] = max(pool.own.largest(), pool.known.largest())
            place["alive"] = pool.own.any_alive() or pool.known.any_alive()
        headers = self._ranks.all_gather_numpy(header, WHAT)
        count_selection(headers=len(pools))
        gains, alive = headers["gain"].max(0).tolist(), headers["alive"].max(0).astype(bool).tolist()
        return list(zip(gains, alive, strict=True))


def _pick_what_is_decided(pool: _Pool) -> None:
    """Pick among the known candidates as long as nothing that was kept back can win or tie."""
    while pool.wanted:
        best = pool.known.largest()
        # A finite gain other than 0 is that of a candidate outside the span: no restart is due.
        if not np.isfinite(best) or best == 0:
            return
        if pool.kept_back and not pool.bound < least_tied(best):
            return
        _pick(pool, int(pool.known.tied(best)[0]))


def _pick(pool: _Pool, row: int) -> None:
    pool.gains.append(pool.known.gain(row))
    pool.picks.append(int(pool.known.columns[row]))
    pool.known.left[row] = False
    pool.span.add(pool.records["w"][pool.known.columns[row]])


def _restart(pool: _Pool) -> None:
    pool.span.restart()
    pool.own.restart()
    pool.known.restart()
    pool.bound = np.inf
    pool.restarts += 1


def _add_known(pool: _Pool, sent: np.ndarray) -> None:
    """Add what ranks have sent; records keep their places, members are in the order of their indices."""
    pool.records = np.concatenate([pool.records, sent[sent["index"] != NONE]])
    known = _members(pool.span, pool.records)
    known.inherit(pool.known)
    pool.known = known


def _members(span: Span, records: np.ndarray) -> Members:
    order = np.argsort(records["index"])
    return Members(span, records["w"].T, order, records["score"][order], records["index"][order])
