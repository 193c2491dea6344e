"""The probability that somebody else should be picked: one left out, or another by the true weights of the score."""

from __future__ import annotations

import numpy as np

from nc_fast.backends.reference.select import gain
from nc_fast.runtime.threads import Stop, ordered_map, thread_count
from nc_fast.screening import scoring
from nc_fast.screening.estimates import Estimates
from nc_fast.screening.evidence import Evidence
from nc_fast.screening.paths import Path
from nc_fast.screening.problem import SEED
from nc_fast.screening.shares import DRAWS

EXCLUSION_AIM = 0.001  # what is left of it by the first shortlist, so that a second is rarely needed
NEGLIGIBLE = 0.1  # of the risk aimed at: candidates that together stay below it are not looked at one by one
SELECTIONS = 40  # instead of DRAWS, where whole selections are needed
ORDER_MATTERS = 4  # a group's picks times this exceed D: what is picked first changes the ratios of what follows
FAR_BEHIND = 0.05  # below the lowest gain, relative: no error of the weights makes that up
STEPS_LOOKED_AT = 128  # of a long path, when contenders are compared under many weights
FOREMOST = 16  # of a group at each of them: nobody else comes first under weights that are nearly the same


def exclusion_risks(evidence: Evidence, estimates: Estimates, paths: list[Path]) -> np.ndarray:
    """Return (M,): the probability that a candidate turns out to be picked once it is known; 0 outside of the rest.

    Audited candidates are treated as if they were unknown, since they stand for those, even if they turned out dead.
    """
    problem, classes, tail = evidence.problem, estimates.classes, estimates.tail
    risks = np.zeros(len(evidence.known))
    columns = np.flatnonzero(evidence.rest & problem.live)
    if tail is None or not len(columns):
        return risks

    def reaches(threshold: float | np.ndarray, columns: np.ndarray) -> np.ndarray:
        return tail.exceeds((threshold - estimates.predicted[columns]) / estimates.scale[columns])

    def risk(g: int, stop: Stop) -> tuple[np.ndarray, np.ndarray]:
        """Return who may be picked in this group, and the probability of it."""
        path, negligible = paths[g], NEGLIGIBLE * EXCLUSION_AIM / len(paths)
        bound = reaches(path.lowest, columns)
        reaching = bound > 1e-3 * negligible / len(columns)
        mine, bound = columns[reaching], bound[reaching]
        chance = classes.chance(mine, g) if classes else np.ones(len(mine))
        near = _all_but_negligible(np.minimum(bound, chance), negligible)
        mine, chance = mine[near], chance[near]
        return mine, np.minimum(reaches(path.thresholds(mine, problem.weights, stop), mine), chance)

    for mine, chance in ordered_map(risk, [g for g, path in enumerate(paths) if path.quota], thread_count()):
        risks[mine] += chance
    return np.minimum(risks, 1)


def weights_risk(evidence: Evidence, estimates: Estimates, paths: list[Path]) -> float:
    """Return the share of weights, drawn from the distribution of their estimate, by which somebody else is picked."""
    problem, totals = evidence.problem, estimates.totals
    if totals is None:
        return 0.0
    order_matters = max(len(path.picks) for path in paths) * ORDER_MATTERS > problem.shape[0]
    draws = np.random.default_rng(SEED).standard_normal((SELECTIONS if order_matters else DRAWS, 4))
    # The first row is the present weights.
    weights = scoring.relative_weights(totals, problem.rules.alpha, np.concatenate([np.zeros((1, 4)), draws]))
    if not np.ptp(weights, axis=0).any():
        return 0.0
    known = np.flatnonzero(evidence.known & estimates.live)
    group = estimates.competes_in[known]
    if order_matters:
        W, measures, quota = problem.weights(known), evidence.measures[:, known], np.array([path.quota for path in paths])
        picked = set(np.concatenate([path.picks for path in paths]))
        selections = (problem.pick(W, row @ measures, group, quota) for row in weights[1:])
        return float(np.mean([set(known[np.asarray(picks.indices)]) != picked for picks in selections]))

    def displaced(g: int, _: Stop) -> np.ndarray:
        path = paths[g]
        others = np.setdiff1d(known[group == g], path.picks)
        others = others[estimates.score[others] > path.lowest - FAR_BEHIND * abs(path.lowest)]
        sides = [(problem.weights(columns), weights @ evidence.measures[:, columns]) for columns in (path.picks, others)]
        return somebody_displaced(path, *sides)

    changed = np.zeros(DRAWS, bool)
    for first, *rest in ordered_map(displaced, [g for g, path in enumerate(paths) if path.quota], thread_count()):
        # Whoever comes first by the present weights lost a tie.
        changed |= np.array(rest) & ~first
    return float(changed.mean())


def somebody_displaced(path: Path, picked: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return (n,) bool: under which of n scorings somebody else is picked, given weights (D, m) and scores (n, m) of picks and others."""
    (W_picked, s_picked), (W_others, s_others) = picked, others
    steps = np.unique(np.linspace(0, len(path.picks) - 1, STEPS_LOOKED_AT).astype(int))
    own, foreign = path.ratios(W_picked)[steps], path.ratios(W_others)[steps]
    # The picks may change their order. So at each step an outsider has to beat the best of the picks that are not made yet.
    to_come = np.arange(len(path.picks)) >= steps[:, None]
    defenders = _foremost(np.where(to_come, gain(s_picked[0], own), -np.inf))
    contenders = _foremost(gain(s_others[0], foreign))

    def gains(score: np.ndarray, ratio: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return gain(score[:, columns], np.take_along_axis(ratio, columns, axis=1))

    to_beat = np.where(np.take_along_axis(to_come, defenders, axis=1), gains(s_picked, own, defenders), -np.inf).max(axis=2)
    return np.asarray((gains(s_others, foreign, contenders).max(axis=2, initial=-np.inf) > to_beat).any(axis=1))


def _foremost(gain: np.ndarray) -> np.ndarray:
    """Return (S, n): of each row (S, T) the columns of the largest, unordered."""
    n = min(FOREMOST, gain.shape[1])
    return np.argpartition(-gain, max(n - 1, 0), axis=1)[:, :n] if n else np.empty((len(gain), 0), int)


def _all_but_negligible(risk: np.ndarray, most: float) -> np.ndarray:
    """Return the numbers of all risks but the smallest, whose sum stays below ``most``."""
    order = np.argsort(risk, kind="stable")
    return np.sort(order[int(np.searchsorted(np.cumsum(risk[order]), most)) :])
