"""How the groups share k: by their sizes, which are estimated, as most members are; and how sure the shares are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nc_fast.quota import share_quota
from nc_fast.screening.estimates import ClassPrediction, Estimates
from nc_fast.screening.evidence import Evidence
from nc_fast.screening.problem import SEED

DRAWS = 128
CORRELATED = 4.0  # errors of candidates are not independent: a factor on the variance of group sizes


@dataclass(frozen=True, eq=False)
class Shares:
    """How the groups share k."""

    quota: np.ndarray  # (G,), picks of every group
    risk: float  # probability that the true sizes share k otherwise
    short: bool  # whether there seem to be fewer live candidates than k


def share(evidence: Evidence, estimates: Estimates) -> Shares:
    """Estimate the sizes of the groups and share k."""
    rules, sample = evidence.problem.rules, np.flatnonzero(evidence.sample)
    G = len(evidence.guess.classes) if rules.by_class else 1
    members = np.bincount(estimates.competes_in[estimates.live & evidence.known], minlength=G)
    sizes = np.bincount(estimates.competes_in[estimates.live], minlength=G).astype(np.float64)
    deviation = np.zeros(G)
    if rules.by_class and len(sample) and (unknown := len(evidence.unknown)):
        right = np.equal.outer(np.arange(G), evidence.group[sample]) & estimates.live[sample]
        flips = right.astype(np.float64) - np.equal.outer(np.arange(G), evidence.guess.group[sample])
        sizes += unknown * flips.mean(axis=1)
        deviation = unknown * np.sqrt(np.maximum(flips.var(axis=1), 0.25 / len(sample) ** 2) / len(sample))
    by_audit = _share(rules.k, members, sizes, deviation)
    if by_audit.risk == 0 or estimates.classes is None or not estimates.live[sample].all():
        return by_audit
    # The audit leaves the shares open: sum over all candidates how likely each is of another class.
    columns = np.flatnonzero(~evidence.known & estimates.live)
    return _share(rules.k, members, *_expected_sizes(estimates.classes, columns, members))


def _expected_sizes(classes: ClassPrediction, columns: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (G,) sizes, ``members`` and what these columns are expected to add, and their standard deviations."""
    G, first = len(members), classes.first[columns]
    gained, leaving = np.zeros(G), np.zeros(len(columns))
    for g in range(G):
        chance = np.where(first == g, 0, np.minimum(classes.chance(columns, g), 0.5))
        gained[g] = chance.sum()
        leaving += chance
    lost = np.bincount(first, weights=leaving, minlength=G)
    return members + np.bincount(first, minlength=G) + gained - lost, np.sqrt(CORRELATED * (gained + lost))


def _share(k: int, members: np.ndarray, estimate: np.ndarray, deviation: np.ndarray) -> Shares:
    """Share k by the estimated sizes; the risk is how often sizes drawn around them share it otherwise. None is below ``members``."""
    draws = np.random.default_rng(SEED).standard_normal((DRAWS, len(members)))
    sizes = np.rint(estimate + np.vstack([np.zeros(len(members)), draws]) * deviation)
    sizes = np.maximum(sizes, members).astype(np.int64)
    own, *drawn = (share_quota(row, min(k, int(row.sum()))) for row in sizes)
    return Shares(own, float(np.mean([(quota != own).any() for quota in drawn])), bool(sizes[0].sum() < k))
