"""The race of a pursuit's candidates on the CPU: what is known of each, and the two ways to pick from them."""

from __future__ import annotations

import numpy as np

from nc_fast.backends.cpu.columns import Columns, Standardized, memory_budget
from nc_fast.picks import PursuitPicks
from nc_fast.runtime.threads import Stop, Stopped, ordered_map, thread_count
from nc_fast.tolerances import EXHAUSTED, NOTHING_EXPLAINED, least_tied

BLOCK_ROWS = 1024  # candidates looked at at once by one thread
THREADS_FROM = 1 << 23  # activations above which a look is worth starting threads: 32 MiB are read in half a millisecond
FLOAT32_ERROR = 1e-6  # of an inner product of float32 unit vectors, generously: of thousands of terms it is typically 1e-7
CONTENDERS = (64, 256)  # computed afresh at once; for one pick
WINDOW_PER_PICK, WINDOW = 8, (32, 512)  # candidates in a window for every pick made in it; at least, at most
WINDOW_ROWS = 128  # candidates of a window multiplied at once by one thread
WINDOW_EXHAUSTED = 1e-5  # EXHAUSTED where float32 is all that is known


class Race:
    """Candidates, the span of those picked, and running sums for the others.

    For every candidate of standardised activation z, u being what it keeps outside the span, there are T'u and |u|^2. After
    every block of picks they are brought up to date by one product with all activations.
    """

    def __init__(self, columns: Columns, T: np.ndarray, k: int, damping: float, *, exact: bool) -> None:
        n = columns.n
        self._columns, self._T, self._damped = columns, T, damping * n
        self._total = float((T**2).sum())
        self._residual = self._total  # of the targets' squares, outside the span
        self._index = self._competing(max(memory_budget() // (4 * n), k))
        m = len(self._index)
        self._Z = np.empty((m, n), np.float32)
        self._correlation = np.empty((m, T.shape[1]))
        self._alive = np.empty(m, bool)  # neither dead, nor exhausted, nor picked
        T32 = T.astype(np.float32)

        def hold(place: slice, block: Standardized) -> None:
            self._alive[place] = block.live
            self._correlation[place] = product(block.rows, T32)

        columns.each_block(self._index, hold, out=self._Z)
        if not exact:
            columns.forget()
        self._norm = np.full(m, float(n))
        self._correlation_error = np.full(m, FLOAT32_ERROR * np.sqrt(n * self._total))
        self._norm_error = np.full(m, FLOAT32_ERROR * n)
        self._Q = np.empty((min(k, n), n), np.float64 if exact else np.float32)
        self._picks: list[int] = []
        self._gains: list[float] = []
        self._explained: list[float] = []

    @property
    def picked(self) -> int:
        """How many were picked."""
        return len(self._picks)

    def _competing(self, most: int) -> np.ndarray:
        """Return all candidates, or where their activations do not fit those of the largest first gains."""
        everyone = np.arange(self._columns.size)
        if len(everyone) <= most:
            return everyone
        gain = np.empty(len(everyone))
        T32 = self._T.astype(np.float32)

        def measure(place: slice, block: Standardized) -> None:
            gain[place] = np.where(block.live, (product(block.rows, T32).astype(np.float64) ** 2).sum(axis=1), -1.0)

        self._columns.each_block(everyone, measure)
        return np.sort(np.argsort(-gain, kind="stable")[:most])

    def pick_exactly(self) -> bool:
        """Pick the candidate of the largest gain, every one that might have it computed afresh; False where none is left.

        Whose gain cannot be the largest is ruled out by the rounding error of the running sums.
        """
        gain = np.full(len(self._Z), -np.inf)
        residuals: dict[int, np.ndarray] = {}

        def refresh(places: np.ndarray) -> None:
            gain[places], u = self._refresh(places)
            residuals.update((place, row) for place, row in zip(places.tolist(), u, strict=True) if self._alive[place])

        if self._residual > NOTHING_EXPLAINED * self._total:
            estimate, lowest, highest = self._estimates()
            while len(residuals) < CONTENDERS[1]:
                best = gain[self._alive].max(initial=-np.inf)
                unknown = self._alive & (gain == -np.inf)
                floor = least_tied(best) if best > -np.inf else lowest[unknown].max(initial=-np.inf)
                places = np.flatnonzero(unknown & (highest >= floor))
                if not len(places):
                    break
                refresh(places[np.argsort(-estimate[places], kind="stable")[: CONTENDERS[0]]])
        while gain[self._alive].max(initial=-np.inf) <= 0 and self._alive.any():  # none explains anything: the lowest that is left
            places = np.flatnonzero(self._alive)[: CONTENDERS[0]]
            if gain[places[0]] == 0:
                break
            refresh(places[gain[places] == -np.inf])
        best = gain[self._alive].max(initial=-np.inf)
        if best == -np.inf:
            return False
        pick = int(np.flatnonzero(self._alive & (gain >= least_tied(best)))[0])
        u = residuals[pick]
        self._add([pick], u[None] / np.linalg.norm(u), [float(gain[pick])])
        return True

    def _estimates(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return every candidate's gain by the running sums, and the least and most that it can be."""
        length = np.sqrt((self._correlation**2).sum(axis=1))
        least_norm = np.maximum(self._norm - self._norm_error, EXHAUSTED * len(self._T))
        estimate = length**2 / (np.maximum(self._norm, least_norm) + self._damped)
        lowest = np.maximum(length - self._correlation_error, 0.0) ** 2 / (self._norm + self._norm_error + self._damped)
        highest = np.minimum((length + self._correlation_error) ** 2 / (least_norm + self._damped), self._residual)
        return estimate, np.minimum(lowest, highest), highest

    def _refresh(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Compute candidates afresh in float64; return their gains, -inf where exhausted, and what they keep outside the span."""
        n, exact = len(self._T), self._columns.exact(self._index[places])
        u, Q = exact.rows, self._Q[: self.picked]
        for _ in range(2 if len(Q) else 0):  # a second time: twice is enough
            u -= (u @ Q.T) @ Q
        norm, correlation = (u**2).sum(axis=1), u @ self._T
        self._norm[places], self._correlation[places] = norm, correlation
        self._norm_error[places] = FLOAT32_ERROR * np.sqrt(n * norm)
        self._correlation_error[places] = FLOAT32_ERROR * np.sqrt(n * self._residual)
        self._alive[places] = exact.live & (norm > EXHAUSTED * n)
        gain = (correlation**2).sum(axis=1) / (np.maximum(norm, EXHAUSTED * n) + self._damped)
        gain[gain <= NOTHING_EXPLAINED * self._total] = 0.0
        return np.where(self._alive[places], gain, -np.inf), u

    def pick_in_window(self, size: int, most: int) -> int:
        """Pick up to ``size`` candidates, ``most`` of them, in a window of those with the largest gains; return how many.

        The window's width depends on ``size`` alone, so that fewer picks are the first of more.
        """
        n, least = len(self._T), NOTHING_EXPLAINED * self._total
        gain = np.where(self._alive & (self._norm > WINDOW_EXHAUSTED * n), self._estimates()[0], 0.0)
        width = min(max(WINDOW_PER_PICK * size, WINDOW[0]), WINDOW[1])
        if len(gain) > width:
            places = np.sort(np.argpartition(-gain, width)[:width])
            places = places[gain[places] > least]
        else:
            places = np.flatnonzero(gain > least)
        if not len(places):
            return 0
        Z, Q = self._Z[places], self._Q[: self.picked]
        chosen = greedy(residual_gram(Z, Q), self._correlation[places], self._damped, WINDOW_EXHAUSTED * n, least, min(size, most))
        u = Z[chosen]
        for _ in range(2):
            u -= product(product(u, Q.T), Q)
        q, R = np.linalg.qr(u.T.astype(np.float64))
        norm = R.diagonal() ** 2
        sound = int(np.argmin(np.append(norm > EXHAUSTED * n, False)))  # those before the first that adds nothing
        self._alive[places[chosen[sound : sound + 1]]] = False
        r, norm = q.T[:sound] @ self._T, norm[:sound]
        gains = (r**2).sum(axis=1) * norm / (norm + self._damped)
        self._add(places[chosen[:sound]].tolist(), q.T[:sound], gains.tolist())
        return sound

    def _add(self, picks: list[int], q: np.ndarray, gains: list[float]) -> None:
        """Add picks and the orthonormal vectors (p, n) by which they extend the span; bring all running sums up to date."""
        first = self.picked
        self._Q[first : first + len(picks)] = q
        self._picks += picks
        self._gains += gains
        self._alive[picks] = False
        r = q @ self._T
        for share in (r**2).sum(axis=1):
            self._residual = max(self._residual - float(share), 0.0)
            self._explained.append(1.0 - self._residual / self._total if self._total else 0.0)
        if not picks or self.picked == len(self._Q):
            return
        q32 = np.ascontiguousarray(q.T, np.float32)

        def look(start: int, stop: Stop) -> None:
            if stop.is_set():
                raise Stopped
            rows = slice(start, start + BLOCK_ROWS)
            a = product(self._Z[rows], q32).astype(np.float64)
            self._correlation[rows] -= a @ r
            self._norm[rows] -= (a**2).sum(axis=1)

        threads = thread_count() if self._Z.size > THREADS_FROM else 1
        for _ in ordered_map(look, range(0, len(self._Z), BLOCK_ROWS), threads):
            pass

    def result(self, k: int) -> PursuitPicks:
        """Return the picks, filled up to k by the lowest indices that are left."""
        picks = self._index[self._picks]
        left = np.setdiff1d(np.arange(self._columns.size), picks)[: k - len(picks)]
        filled = len(left)
        explained = self._explained + [self._explained[-1] if self._explained else 0.0] * filled
        indices = np.concatenate([picks, left]).astype(np.int64)
        return PursuitPicks(indices, np.array(self._gains + [0.0] * filled), np.array(explained), len(self._index), filled)


def residual_gram(Z: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Return the Gram matrix (w, w), in float64, of what the rows of Z (w, n) keep outside the span of those of Q (t, n)."""
    spanned, gram = np.empty((len(Z), len(Q)), np.float32), np.empty((len(Z), len(Z)))
    threads = thread_count() if Z.size > THREADS_FROM // 8 else 1  # products: more work for every number read than a look

    def project(first: int, stop: Stop) -> None:
        if stop.is_set():
            raise Stopped
        spanned[first : first + WINDOW_ROWS] = product(Z[first : first + WINDOW_ROWS], Q.T)

    def multiply(first: int, stop: Stop) -> None:
        if stop.is_set():
            raise Stopped
        rows = slice(first, first + WINDOW_ROWS)
        gram[rows] = product(Z[rows], Z.T) - product(spanned[rows], spanned.T)

    for step in (project, multiply):
        for _ in ordered_map(step, range(0, len(Z), WINDOW_ROWS), threads):
            pass
    return gram


def product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the matrix product of finite float32 numbers.

    Once in many thousand calls OpenBLAS flags an invalid operation though all numbers that it returns are right: its vectors
    reach beyond the end of a matrix.
    """
    with np.errstate(invalid="ignore"):
        found: np.ndarray = a @ b
        return found


def greedy(gram: np.ndarray, correlation: np.ndarray, damped: float, exhausted: float, least: float, size: int) -> np.ndarray:
    """Return up to ``size`` picks by the exact method among candidates of which the Gram matrix is at hand, as places in it."""
    correlation, norm = correlation.copy(), gram.diagonal().copy()
    steps, picks = np.empty((size, len(gram))), []
    alive = np.ones(len(gram), bool)
    for t in range(size):
        alive &= norm > exhausted
        gain = np.where(alive, (correlation**2).sum(axis=1) / (np.maximum(norm, exhausted) + damped), 0.0)
        best = gain.max()
        if best <= least:
            break
        pick = int(np.argmax(gain >= least_tied(best)))
        length = np.sqrt(norm[pick])
        steps[t] = (gram[pick] - steps[:t, pick] @ steps[:t]) / length
        correlation -= np.outer(steps[t], correlation[pick] / length)
        norm -= steps[t] ** 2
        alive[pick] = False
        picks.append(pick)
    return np.array(picks, np.int64)
