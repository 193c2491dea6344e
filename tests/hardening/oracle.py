"""An oracle in 60 digits, written from docs/algorithm.md and sharing no code with the library; run it for the large comparison.

Each pick is judged given those before it. docs/numerics.md bounds how far a computed ratio may be from the exact one; with
ratios anywhere inside their bounds the rules allow one candidate (the step is clear: that one must have been picked) or several.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import mpmath
import numpy as np

import nc_fast

DIGITS = 60
RANK_TOLERANCE = 1e-6  # docs/algorithm.md; not imported, so that a slip in the library shows
TIE_TOLERANCE = 1e-9
ROUNDING = 4 * 2.0**-52  # error of a ratio, for every unit of the coefficients that write the vector in terms of the picks
UPDATING = 1e-11  # relative error of a ratio that was updated rather than computed afresh

exact = np.vectorize(mpmath.mpf, otypes=[object])


@dataclass
class Verdict:
    """What the oracle says of a selection.

    Attributes
    ----------
    steps : clear: one candidate was allowed; open: several were; unjudged: it was open whether the span had grown or restarted.
    wrong : descriptions of picks that were not allowed, or of gains outside their bounds.
    gain_error : largest error of a gain, in units of its bound.
    """

    steps: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    gain_error: float = 0.0


class ExactSpan:
    """Residuals of a pool's unit vectors outside the span of its picks, by elimination: no basis is ever normalised."""

    def __init__(self, W: np.ndarray) -> None:
        with mpmath.workdps(DIGITS):
            columns = exact(W)
            self._units = columns / np.array([mpmath.sqrt(sum(w * w for w in column)) for column in columns.T], dtype=object)
        self.clear()

    def clear(self) -> None:
        self._residual = self._units.copy()
        self._squared = np.full(self._units.shape[1], mpmath.mpf(1), dtype=object)
        self._coefficients = np.zeros((0, self._units.shape[1]), dtype=object)
        self.empty = True

    def ratios(self) -> tuple[np.ndarray, np.ndarray]:
        """Return every ratio, rounded to float64, and the bound of the error of a computed one."""
        with mpmath.workdps(DIGITS):
            ratio = np.array([float(mpmath.sqrt(squared)) for squared in self._squared])
            growth = 1 + abs(self._coefficients).sum(axis=0).astype(float)
        return ratio, ROUNDING * growth + UPDATING * ratio

    def add(self, pick: int) -> None:
        with mpmath.workdps(DIGITS):
            pivot, own = self._residual[:, pick].copy(), self._coefficients[:, pick].copy()
            share = pivot @ self._residual / (pivot @ pivot)
            self._residual = self._residual - np.outer(pivot, share)
            self._squared = (self._residual**2).sum(axis=0)
            self._coefficients = np.vstack([self._coefficients - np.outer(own, share), share])
        self.empty = False


def gain_bounds(score: np.ndarray, ratio: np.ndarray, error: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the least and the greatest gain with the ratio inside its error: gains grow with the ratio whatever the score's sign."""
    return gain(score, ratio - error), gain(score, ratio + error)


def gain(score: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    ratio = np.where(ratio > RANK_TOLERANCE, ratio, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(score >= 0, score * ratio, score / ratio)


def allowed(least: np.ndarray, greatest: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Return (M,) bool: which candidates the rules may pick, whatever the gains inside their bounds."""
    least, greatest = np.where(left, least, -np.inf), np.where(left, greatest, -np.inf)
    may_tie = left & (greatest >= least.max() - TIE_TOLERANCE * abs(least.max()))
    surely_ties = left & (least >= greatest.max() - TIE_TOLERANCE * abs(greatest.max()))
    if surely_ties.any():
        may_tie[np.argmax(surely_ties) + 1 :] = False  # the lowest index wins
    return may_tie


def judge_pool(W: np.ndarray, score: np.ndarray, picks: np.ndarray, gains: np.ndarray, verdict: Verdict) -> int | None:
    """Judge the picks of one pool; return its restarts, or None where they are open."""
    span, left, restarts = ExactSpan(W), np.ones(W.shape[1], bool), 0
    for step, pick in enumerate(picks):
        ratio, error = span.ratios()
        if not span.empty and (ratio - error <= RANK_TOLERANCE)[left].all():
            if (ratio + error > RANK_TOLERANCE)[left].any():
                verdict.steps["unjudged"] += len(picks) - step
                return None
            span.clear()
            restarts += 1
            ratio, error = span.ratios()
        least, greatest = gain_bounds(score, ratio, error)
        choice = allowed(least, greatest, left)
        verdict.steps["clear" if choice.sum() == 1 else "open"] += 1
        if not choice[pick]:
            verdict.wrong.append(f"step {step}: {pick} picked, {np.flatnonzero(choice)} allowed")
        if np.isfinite(gain(score[pick], ratio[pick])) and np.isfinite(least[pick]):
            off, bound = gains[step] - gain(score[pick], ratio[pick]), max(greatest[pick] - least[pick], 1e-300) / 2
            verdict.gain_error = max(verdict.gain_error, abs(off) / bound)
            if not least[pick] - bound <= gains[step] <= greatest[pick] + bound:
                verdict.wrong.append(f"step {step}: gain off by {abs(off) / bound:.3g} bounds")
        left[pick] = False
        if abs(ratio[pick] - RANK_TOLERANCE) <= error[pick]:
            verdict.steps["unjudged"] += len(picks) - step - 1
            return None
        if ratio[pick] > RANK_TOLERANCE:
            span.add(int(pick))
    return restarts


def judge(W: np.ndarray, score: np.ndarray, groups: np.ndarray, found: nc_fast.Selection) -> Verdict:
    """Judge a selection by class."""
    verdict, restarts = Verdict(), []
    for group in np.unique(groups):
        members, own = np.flatnonzero(groups == group), found.groups == group
        picks = np.searchsorted(members, found.indices[own])
        restarts.append(judge_pool(W[:, members], score[members], picks, found.gains[own], verdict))
    if None not in restarts and sum(restarts) != found.restarts:
        verdict.wrong.append(f"{found.restarts} restarts, {sum(restarts)} expected")
    return verdict


def exact_moments(W: np.ndarray, X: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the products X @ W, and the class means and sums of squared deviations, all exact and rounded once."""
    with mpmath.workdps(DIGITS):
        z = exact(X) @ exact(W)
        own = [z[codes == c] for c in range(codes.max() + 1)]
        mean = [part.sum(axis=0) / len(part) for part in own]
        m2 = [((part - part_mean) ** 2).sum(axis=0) for part, part_mean in zip(own, mean, strict=True)]
    return z.astype(float), np.array(mean).astype(float), np.array(m2).astype(float)


def exact_merge(count: np.ndarray, mean: np.ndarray, m2: np.ndarray) -> tuple[float, float]:
    """Return the mean and m2 of all parts together: (P,) each, by the definition rather than pair by pair."""
    with mpmath.workdps(DIGITS):
        weights, means = exact(count), exact(mean)
        whole = weights @ means / weights.sum()
        return float(whole), float(exact(m2).sum() + weights @ (means - whole) ** 2)


def merge_bound(count: np.ndarray, mean: np.ndarray, m2: float) -> tuple[float, float]:
    """Return how far mean and m2 may be off after merging the parts in any order and grouping (docs/numerics.md)."""
    P, N, u = len(count), count.sum(), 2.0**-53
    off = P * u * (abs(mean).max() + 4 * np.ptp(mean))
    return off, (2 * P + 6) * u * m2 + 2 * off * np.sqrt(P * N * m2) + P * N * off**2


def of_condition(exponent: int) -> Callable[..., np.ndarray]:
    def draw(rng: np.random.Generator, D: int, M: int) -> np.ndarray:
        turn = np.linalg.qr(rng.normal(size=(D, D)))[0]
        return turn @ (np.logspace(0, -exponent, D)[:, None] * rng.normal(size=(D, M)))

    return draw


def near_duplicates(distance: float) -> Callable[..., np.ndarray]:
    def draw(rng: np.random.Generator, D: int, M: int) -> np.ndarray:
        originals = rng.normal(size=(D, D // 4))  # few, so that the copies have to be told apart
        copies = originals[:, rng.integers(0, originals.shape[1], M)] * rng.choice([-1.0, 1.0], M)
        return copies + distance * rng.normal(size=(D, M))

    return draw


def of_scales(draw: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    return lambda rng, D, M: draw(rng, D, M) * 10.0 ** rng.uniform(-30, 30, M)


POOLS = {
    **{f"condition 1e{exponent}": of_condition(exponent) for exponent in range(0, 16, 3)},
    "near-duplicates at 1e-7": near_duplicates(1e-7),
    "near-duplicates at 1e-5": near_duplicates(1e-5),
    "column scales 1e-30 to 1e30": of_scales(of_condition(0)),
    "scaled near-duplicates at 1e-7": of_scales(near_duplicates(1e-7)),
}
SCORES: dict[str, Callable[..., np.ndarray]] = {
    "positive": lambda rng, M: rng.random(M) + 0.1,
    "mixed signs": lambda rng, M: rng.normal(size=M),
    "equal": lambda rng, M: np.full(M, 0.25),
}


def compare(pool: str, scores: str, backend: str, dtype: type, size: tuple[int, int, int], rng: np.random.Generator) -> Verdict:
    """Draw a pool of at most this size (D, M, k), select from it with the backend, and judge."""
    D, M, k = (int(rng.integers(low, high + 1)) for low, high in zip((4, 10, 2), size, strict=True))
    W, score, groups = POOLS[pool](rng, D, M).astype(dtype), SCORES[scores](rng, M), rng.integers(0, rng.integers(1, 4), M)
    return judge(W, score, groups, nc_fast.select(W, score, min(k, M), groups=groups, backend=backend))


def main() -> None:
    """Compare many pools and print a table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--pools", type=int, default=20, help="of each kind of weights, scores and dtype")
    parser.add_argument("--size", type=int, nargs=3, default=(24, 60, 20), metavar=("D", "M", "k"), help="at most")
    parser.add_argument("--backends", nargs="+", default=["reference", "cpu"])
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    print("| pool | backend | steps | clear | open | unjudged | wrong | gain error / bound |\n|" + " --- |" * 8)
    for pool in POOLS:
        for backend in asked.backends:
            verdicts = [
                compare(pool, scores, backend, dtype, asked.size, np.random.default_rng([asked.seed, number]))
                for scores in SCORES
                for dtype in (np.float64, np.float32)
                for number in range(asked.pools)
            ]
            steps = sum((verdict.steps for verdict in verdicts), Counter())
            wrong, error = sum(len(verdict.wrong) for verdict in verdicts), max(verdict.gain_error for verdict in verdicts)
            counts = " | ".join(str(steps[name]) for name in ("clear", "open", "unjudged"))
            print(f"| {pool} | {backend} | {sum(steps.values())} | {counts} | {wrong} | {error:.2g} |", flush=True)


if __name__ == "__main__":
    main()
