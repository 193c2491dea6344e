"""What follows from what is known: scores, quota, picks, and the risk that somebody left out belongs in."""

from __future__ import annotations

from functools import cached_property
from statistics import NormalDist

import numpy as np

from nc_fast.quota import share_quota
from nc_fast.runtime.threads import Stop, ordered_map, thread_count
from nc_fast.screening import scoring
from nc_fast.screening.exclusion import Path, share_displaced
from nc_fast.screening.pool import Pool
from nc_fast.screening.problem import SEED
from nc_fast.screening.tail import Tail, regress
from nc_fast.types import Certificate, Scores

EXCLUSION_RISK = 0.01  # most that is accepted: probability that a candidate left out would have been picked
EXCLUSION_AIM = 0.001  # what is left of it by the first shortlist, so that a second is rarely needed
WEIGHTS_DOUBT = 0.2  # probability that the estimated weights of the score change the picks: beyond it a second audit is made,
WEIGHTS_AIM = 0.03  # as large as brings it down to this,
SECOND_AUDIT = 0.25  # but no larger than this part of the pool, and not at all where it would more than double the price
QUOTA_RISK = 0.01  # aimed at: probability that the sizes of the groups share k otherwise
FIRST_GUESS = 3  # times the quota: how many of a group take part in the first, predicted selection
NEGLIGIBLE = 0.1  # of the risk aimed at: candidates that together stay below it are not looked at one by one
DRAWS = 128
FAR_BEHIND = 0.05  # below the lowest gain, relative: no error of the weights makes that up
SELECTIONS = 40  # instead, where whole selections are needed
ORDER_MATTERS = 4  # a group's picks times this exceed D: what is picked first changes the ratios of what follows
CORRELATED = 4.0  # errors of candidates are not independent: a factor on the variance of group sizes
SURE_TO_CHANGE = 0.95
FEWEST_ERRORS = 40  # that a tail is fitted to


class View:
    """Scores, quota, picks and risks as they follow from what a pool knows."""

    def __init__(self, pool: Pool, *, predicted: bool) -> None:
        self.pool = pool
        self.problem = problem = pool.problem
        self.known = pool.known.copy()
        self.predicted = predicted
        self.totals: scoring.Totals | None = None
        self._score()
        if problem.rules.by_class and self._groups_by_mean() and not self.known.all():
            errors = pool.class_errors()
            pool.class_tail = Tail.of(errors) if len(errors) >= FEWEST_ERRORS else None
        self._share()
        self._select()
        self._risks()

    def _score(self) -> None:
        pool, alpha = self.pool, self.problem.rules.alpha
        known = np.flatnonzero(self.known)
        if self.problem.rules.criterion is None:
            audit = np.flatnonzero(pool.audit & pool.rest)
            self.totals = scoring.estimate_totals(pool.measured, pool.guessed, pool.rest, audit)
            weight = scoring.weights(self.totals.value, alpha)
            exact, guess = weight @ pool.measured, weight @ pool.guessed
        else:
            exact, guess = pool.score, pool.guessed_score
        self.errors = np.zeros(0)
        self.scale = np.zeros(len(guess))
        score = np.where(self.known, exact, guess)
        if len(known) < len(guess):
            features = np.concatenate([np.ones((1, len(guess))), guess[None], pool.guessed])
            correction, self.scale = regress(features, exact[known] - guess[known], known)
            self.errors = (exact - guess - correction)[known] / self.scale[known]
            score = np.where(self.known, exact, guess + correction)
        self.score = score
        self.group = np.where(self.known, pool.group, pool.guessed_group)
        dead = self.known & (pool.measured[scoring.SPREAD] == 0)
        self.live = self.problem.live & ~dead
        self.pooled = self.group if self.problem.rules.by_class else np.zeros_like(self.group)

    def _share(self) -> None:
        """Estimate the sizes of the groups, share k, and ask how sure the shares are."""
        pool = self.pool
        G = len(pool.classes) if self.problem.rules.by_class else 1
        sizes = np.bincount(self.pooled[self.live], minlength=G).astype(np.float64)
        members = np.bincount(self.pooled[self.live & self.known], minlength=G)
        rest = pool.rest
        audit = np.flatnonzero(pool.audit & rest)
        unknown = int((~self.known).sum())
        self.quota_risk = 0.0
        deviation = np.zeros(G)
        if unknown and self.problem.rules.by_class and len(audit):
            right = np.equal.outer(np.arange(G), pool.group[audit]) & self.live[audit]
            flips = right.astype(np.float64) - np.equal.outer(np.arange(G), pool.guessed_group[audit])
            sizes += unknown * flips.mean(axis=1)
            deviation = unknown * np.sqrt(np.maximum(flips.var(axis=1), 0.25 / len(audit) ** 2) / len(audit))
        self._settle_quota(sizes, deviation, members)
        if self.quota_risk > 0 and pool.class_tail is not None and self.live[audit].all():
            # The audit leaves it open: ask every candidate how likely it is of another class.
            columns = np.flatnonzero(~self.known & self.live)
            first = pool.first_class[columns]
            sizes = (members + np.bincount(first, minlength=G)).astype(np.float64)
            variance = np.zeros(G)
            for g in range(G):
                chance = np.where(first == g, 0, np.minimum(self._class_chance(columns, g), 0.5))
                moved = np.bincount(first, weights=chance, minlength=G)
                sizes[g] += chance.sum()
                sizes -= moved
                variance[g] += chance.sum()
                variance += moved
            self._settle_quota(sizes, np.sqrt(CORRELATED * variance), members)

    def _settle_quota(self, estimate: np.ndarray, deviation: np.ndarray, members: np.ndarray) -> None:
        k = self.problem.rules.k
        sizes = np.maximum(np.rint(estimate), members).astype(np.int64)
        self.short = sizes.sum() < k
        self.quota = share_quota(sizes, min(k, int(sizes.sum())))
        self.quota_risk = 0.0
        if deviation.any():
            draws = np.random.default_rng(SEED).standard_normal((DRAWS, len(members))) * deviation
            moved = np.maximum(np.rint(estimate + draws), members).astype(np.int64)
            self.quota_risk = float(np.mean([(share_quota(row, min(k, int(row.sum()))) != self.quota).any() for row in moved]))

    def _select(self) -> None:
        """Run the backend's selection on what is known; at first on the best predicted ones too."""
        taking = self.known & self.live
        if self.predicted:
            for g, quota in enumerate(self.quota):
                mine = np.flatnonzero(self.live & (self.pooled == g) & ~self.known)
                most = min(FIRST_GUESS * int(quota) + 8, len(mine))
                taking[mine[np.argsort(-self.score[mine], kind="stable")[:most]]] = True
        columns = np.flatnonzero(taking)
        pool = self.pooled[columns]
        possible = np.bincount(pool, minlength=len(self.quota))
        asked = np.minimum(self.quota, possible)
        self.missing = self.quota > possible
        W = self.problem.weights(columns)
        picks = self.problem.pick(W, self.score[columns], pool, asked)
        indices, gains = (np.split(np.asarray(found), np.cumsum(asked)[:-1]) for found in (picks.indices, picks.gains))

        def path(g: int, _: Stop) -> Path:
            return Path.of(columns[indices[g]], gains[g], W[:, indices[g]])

        self.paths = list(ordered_map(path, range(len(asked)), thread_count()))

    def _risks(self) -> None:
        """Fill risk (M,): the probability that a candidate, were it known, would have been picked."""
        pool = self.pool
        M = len(self.score)
        self.key = self.risk = np.zeros(M)
        # The audit stands for the rest also where it was found dead: its likes, not known to be, are at risk.
        outside = pool.rest & self.problem.live if (~self.known).any() else np.zeros(M, bool)
        columns = np.flatnonzero(outside)
        if not len(columns):
            return
        self.tail = Tail.of(self.errors)
        guess = self._predicted()

        def risk(g: int, stop: Stop) -> tuple[np.ndarray, np.ndarray]:
            """Return who may be picked in this group, and the probability of it."""
            path, missing = self.paths[g], self.missing[g]
            negligible = NEGLIGIBLE * EXCLUSION_AIM / len(self.paths)
            bound = self.tail.exceeds(((-np.inf if missing else path.lowest) - guess[columns]) / self.scale[columns])
            reaching = bound > 1e-3 * negligible / len(columns)
            mine, bound = columns[reaching], bound[reaching]
            chance = self._class_chance(mine, g)
            near = _all_but_negligible(np.minimum(bound, chance), negligible)
            mine, chance = mine[near], chance[near]
            threshold = np.full(len(mine), -np.inf) if missing else path.thresholds(mine, self.problem.weights, stop)
            return mine, np.minimum(self.tail.exceeds((threshold - guess[mine]) / self.scale[mine]), chance)

        for mine, chance in ordered_map(risk, self._groups, thread_count()):
            self.risk[mine] += chance
        self.key = self.risk = np.minimum(self.risk, 1)

    @property
    def _groups(self) -> list[int]:
        """The groups that somebody is picked from."""
        return [g for g, quota in enumerate(self.quota) if quota]

    def _predicted(self) -> np.ndarray:
        """Return (M,) predicted scores, also of the known: the audit stands for the rest."""
        known = np.flatnonzero(self.known)
        score = self.score.copy()
        score[known] -= self.errors * self.scale[known]
        return score

    def _groups_by_mean(self) -> bool:
        pool = self.pool
        return self.problem.rules.criterion is None or bool((pool.guessed_group == pool.guessed_mean.argmax(axis=0)).all())

    def _class_chance(self, columns: np.ndarray, g: int) -> np.ndarray:
        """Return (n,): the probability that each candidate belongs to group g."""
        if self.pool.class_tail is None:
            return np.ones(len(columns))
        behind = self.pool.class_behind(columns, g)
        return np.where(behind == 0, 1, self.pool.class_tail.exceeds(behind))

    def _other_class(self, columns: np.ndarray) -> np.ndarray:
        """Return (n,): the largest probability of a class other than the guessed one."""
        guessed = self.pool.first_class[columns]
        chances = [np.where(guessed == g, 0, self._class_chance(columns, g)) for g in range(len(self.pool.classes))]
        return np.asarray(np.max(chances, axis=0))

    @property
    def exclusion_risk(self) -> float:
        """Probability that somebody left out would have been picked."""
        left = self.risk[~self.known]
        return abs(float(np.expm1(np.log1p(-np.minimum(left, 1 - 1e-12)).sum())))

    @property
    def settled(self) -> bool:
        return not self.short and not self.missing.any() and all(self.known[path.picks].all() for path in self.paths)

    def wanted(self) -> np.ndarray:
        """Return the columns whose exact moments are to be taken next: the riskiest, and those the quota hangs on."""
        unknown = np.flatnonzero(~self.known)
        if not len(unknown):
            return unknown
        order = unknown[np.argsort(-self.risk[unknown], kind="stable")]
        left = self.risk[order][::-1].cumsum()[::-1]
        aim = EXCLUSION_AIM if self.predicted else EXCLUSION_RISK / 2
        more = order[left > aim] if left[0] > EXCLUSION_RISK or not self.settled else order[:0]
        if self.quota_risk > QUOTA_RISK and len(more) == 0:
            more = self._undecided(order)
        return np.sort(more)

    def _undecided(self, unknown: np.ndarray) -> np.ndarray:
        """Return the candidates most likely of another group than guessed: a twentieth of the pool at a time."""
        if self.pool.class_tail is None:
            return unknown
        self.key = self._other_class(np.arange(len(self.score)))
        order = np.argsort(-self.key[unknown], kind="stable")
        return unknown[order[: max(len(self.score) // 20, 64)]]

    @cached_property
    def weights_risk(self) -> float:
        """Probability that the estimated weights of the score change who is picked."""
        if self.totals is None or not self.totals.covariance.any() or not self.settled:
            return 0.0
        reselect = max(len(path.picks) for path in self.paths) * ORDER_MATTERS > self.problem.shape[0]
        draws = np.random.default_rng(SEED).standard_normal((SELECTIONS if reselect else DRAWS, 4))
        weight = scoring.relative_weights(self.totals, self.problem.rules.alpha, np.concatenate([np.zeros((1, 4)), draws]))
        if reselect:
            return float(np.mean([self._picks_differ(row) for row in weight[1:]])) if np.ptp(weight, axis=0).any() else 0.0

        def displaced(g: int, _: Stop) -> np.ndarray:
            path = self.paths[g]
            others = np.setdiff1d(np.flatnonzero(self.known & self.live & (self.pooled == g)), path.picks)
            others = others[self.score[others] > path.lowest - FAR_BEHIND * abs(path.lowest)]
            sides = [(self.problem.weights(columns), weight @ self.pool.measured[:, columns]) for columns in (path.picks, others)]
            return share_displaced(path, sides[0], sides[1])

        changed = np.zeros(DRAWS, bool)
        for first, *rest in ordered_map(displaced, self._groups, thread_count()):
            # The first row is the present weights: whoever leads there lost a tie.
            changed |= np.array(rest) & ~first
        return float(changed.mean())

    def _picks_differ(self, weight: np.ndarray) -> bool:
        """Whether the backend picks somebody else with these weights: in few dimensions the order of picks decides the later ones."""
        columns = np.flatnonzero(self.known & self.live)
        picks = self.problem.pick(self._known_weights, weight @ self.pool.measured[:, columns], self.pooled[columns], self.quota)
        return set(columns[np.asarray(picks.indices)]) != set(np.concatenate([path.picks for path in self.paths]))

    @cached_property
    def _known_weights(self) -> np.ndarray:
        return self.problem.weights(np.flatnonzero(self.known & self.live))

    def audit_wanted(self) -> int:
        """Return how many more candidates to audit so that the score's weights are known well enough; 0 where that is too dear."""
        M, audited, risk = len(self.score), int(self.pool.audit.sum()), self.weights_risk
        if risk <= WEIGHTS_DOUBT:
            return 0
        # The chance that an error of standard deviation 1 / sqrt(audited) exceeds the narrowest gap.
        gap, aim = (NormalDist().inv_cdf(1 - min(risk, SURE_TO_CHANGE) / 2) for risk in (risk, WEIGHTS_AIM))
        wanted = audited * ((aim / gap) ** 2 - 1)
        extra = max(0, int(min(wanted, SECOND_AUDIT * M - audited)))
        spent = self.problem.overhead + self.pool.n_known
        return extra if extra <= spent else 0

    def result(self, rounds: int) -> tuple[Scores, Certificate]:
        """Return scores, live and exact for who is fit to be picked, and the certificate."""
        pool = self.pool
        exact = bool(self.known.all())
        exclusion, weights = self.exclusion_risk, self.weights_risk
        probability = 0.0 if exact else 1 - (1 - exclusion) * (1 - weights) * (1 - self.quota_risk)
        certificate = Certificate(
            pool=len(self.score),
            shortlist=int((self.known & ~pool.audit).sum()),
            audit=int(pool.audit.sum()),
            surrogate=pool.name,
            error_quantiles={} if exact else {p: self.tail.quantile(1 - p) * float(np.median(self.scale)) for p in (0.9, 0.99, 0.999)},
            class_error=float(np.mean(pool.group[self.known] != pool.guessed_group[self.known])),
            left_out=exclusion,
            weights=weights,
            quota=self.quota_risk,
            probability=probability,
            rounds=rounds,
            reason="the surrogate could not rule out enough candidates" if exact else "",
        )
        return Scores(self.score, self.group, self.known & self.live, pool.classes, None if exact else self.quota), certificate


def _all_but_negligible(risk: np.ndarray, most: float) -> np.ndarray:
    """Return the numbers of all risks but the smallest, whose sum stays below ``most``."""
    order = np.argsort(risk, kind="stable")
    return np.sort(order[int(np.searchsorted(np.cumsum(risk[order]), most)) :])
