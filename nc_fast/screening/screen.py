"""The screening loop: surrogate for all, exact moments for an audit and a shortlist, until nobody left out can matter."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nc_fast.criteria import apply_criterion
from nc_fast.quota import share_quota
from nc_fast.screening import scoring
from nc_fast.screening.exclusion import Path, share_displaced
from nc_fast.screening.problem import Problem
from nc_fast.screening.tail import Tail, regress
from nc_fast.types import Certificate, ClassMoments, Scores

PAYS = 0.5  # exact columns or their worth, of the pool: beyond, exact moments of all are about as cheap
EXCLUSION_RISK = 0.004  # aimed at: probability that a candidate left out would have been picked
WEIGHTS_RISK = 0.02  # aimed at: probability that the estimated weights of the score change the picks
QUOTA_RISK = 0.01  # aimed at: probability that the sizes of the groups share k otherwise
AUDIT_BASE = 512
AUDIT_PER_PICK = 0.5
FIRST_GUESS = 3  # times the quota: how many of a group take part in the first, predicted selection
MAX_ROUNDS = 12
DRAWS = 128
SUBSAMPLE_GAIN = 0.6  # the subsample takes the mixture's place where its errors are this much smaller
SEED = 6


@dataclass(frozen=True, eq=False)
class Screened:
    """What the selection needs: scores (exact where eligible), who may be picked, how many per group, and the certificate."""

    scores: Scores
    eligible: np.ndarray
    quota: np.ndarray
    certificate: Certificate


def audit_size(k: int, M: int) -> int:
    """Return how many candidates are drawn at random for exact moments at first."""
    return min(round(AUDIT_BASE + AUDIT_PER_PICK * k), M)


def pays(problem: Problem) -> bool:
    """Predict whether screening costs clearly less than exact moments of the whole pool."""
    M = problem.shape[1]
    return problem.overhead + audit_size(problem.rules.k, M) + 1.5 * problem.rules.k <= PAYS * M


def screen(problem: Problem) -> Screened | str:
    """Screen the pool; a string says why it was not done and exact moments of the whole pool are to be taken instead."""
    M = problem.shape[1]
    if not pays(problem):
        return f"a pool of {M} is too small for screening to pay"
    pool = _Pool(problem)
    pool.audit_more(audit_size(problem.rules.k, M))
    if problem.rules.criterion is not None and not scoring.pool_independent(problem.rules.criterion, pool.exact_moments()):
        return "the criterion scores a candidate by the rest of the pool"
    if problem.second is not None and problem.overhead + problem.second_cost + pool.n_known <= PAYS * M:
        pool.use_better_surrogate()
    view = pool.view(predicted=True)
    rounds = 0
    while True:
        more = view.wanted()
        rounds += 1
        if view.settled and not len(more):
            break
        if rounds > MAX_ROUNDS or problem.overhead + pool.n_known + len(more) > PAYS * M:
            pool.learn(np.flatnonzero(~pool.known))
            view = pool.view(predicted=False)
            break
        pool.learn(more, view.risk)
        view = pool.view(predicted=False)
        if view.settled and not len(view.wanted()) and (extra := view.audit_wanted()):
            pool.audit_more(extra)
            view = pool.view(predicted=False)
    return view.result(rounds)


class _Pool:
    """Everything known of the candidates so far."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.rng = np.random.default_rng(SEED)
        M = problem.shape[1]
        self.known = np.zeros(M, bool)
        self.rest = np.ones(M, bool)  # what the audit is a random sample of; the others are all known
        self.audit = np.zeros(M, bool)
        self.measured = np.zeros((3, M))
        self.group = np.zeros(M, np.int64)
        self.score = np.zeros(M)  # a criterion's own
        self._parts: list[tuple[np.ndarray, ClassMoments]] = []
        self.name = problem.surrogate_name
        self._set_surrogate(problem.surrogate())

    def _set_surrogate(self, moments: ClassMoments) -> None:
        self.classes = moments.classes
        self.guessed_mean = moments.mean
        self.guessed = scoring.measures(moments)
        criterion = self.problem.rules.criterion
        if criterion is None:
            self.guessed_group = moments.mean.argmax(axis=0)
        else:
            found = apply_criterion(criterion, moments)
            self.guessed_score, self.guessed_group = found.score, found.group

    @property
    def n_known(self) -> int:
        return int(self.known.sum())

    def learn(self, columns: np.ndarray, risk: np.ndarray | None = None) -> None:
        """Take exact moments of these columns; with ``risk`` (M,), whoever is as risky as they are leaves the audited rest."""
        if not len(columns):
            return
        moments = self.problem.exact(columns)
        self._parts.append((columns, moments))
        self.known[columns] = True
        self.measured[:, columns] = scoring.measures(moments)
        if self.problem.rules.criterion is None:
            self.group[columns] = moments.mean.argmax(axis=0)
        else:
            found = apply_criterion(self.problem.rules.criterion, moments)
            self.score[columns], self.group[columns] = found.score, found.group
        self.rest[columns] = self.audit[columns]
        if risk is not None:
            self.rest &= ~(self.audit & (risk >= risk[columns].min()))

    def audit_more(self, n: int) -> None:
        """Draw candidates from the rest at random and take their exact moments."""
        unknown = np.flatnonzero(~self.known)
        drawn = np.sort(self.rng.choice(unknown, min(n, len(unknown)), replace=False))
        self.audit[drawn] = True
        self.learn(drawn)

    def exact_moments(self) -> ClassMoments:
        _, moments = self._parts[0]
        return moments

    def use_better_surrogate(self) -> None:
        """Put the second surrogate in the first one's place where its errors on the audit are clearly smaller."""
        problem = self.problem
        assert problem.second is not None
        columns, moments = self._parts[0]
        exact = scoring.measures(moments)
        second = scoring.measures(problem.second(columns))
        ours, theirs = (_error(exact, found) for found in (self.guessed[:, columns], second))
        if theirs < SUBSAMPLE_GAIN * ours:
            self._set_surrogate(problem.second(np.arange(problem.shape[1])))
            self.name = problem.second_name

    def class_errors(self) -> np.ndarray:
        """Return errors of guessed differences between class means, in units of the candidate's spread within classes."""
        found = []
        for columns, moments in self._parts:
            guessed = self.guessed_mean[:, columns]
            top = guessed.argmax(axis=0)[None]
            exact = moments.mean - np.take_along_axis(moments.mean, top, axis=0)
            error = exact - (guessed - guessed.max(axis=0))
            scaled = error / self.unit(columns)
            keep = np.arange(len(guessed))[:, None] != top
            found.append(scaled[keep])
        return np.concatenate(found)

    def unit(self, columns: np.ndarray | slice) -> np.ndarray:
        """Return the scale of errors of class means, (n,)."""
        return np.maximum(self.guessed[scoring.WITHIN, columns], np.finfo(np.float64).tiny)

    def view(self, *, predicted: bool) -> _View:
        """Assess the state: score what is known, select, and ask of everybody else whether they could have been picked."""
        return _View(self, predicted)


class _View:
    """Scores, quota, picks and risks as they follow from what a pool knows."""

    def __init__(self, pool: _Pool, predicted: bool) -> None:
        self.pool = pool
        self.problem = problem = pool.problem
        self.known = pool.known.copy()
        self.totals: scoring.Totals | None = None
        self._score()
        self._share()
        self._select(predicted)
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
        pool, k = self.pool, self.problem.rules.k
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
        sizes = np.maximum(np.rint(sizes), members).astype(np.int64)
        self.short = sizes.sum() < k
        self.quota = share_quota(sizes, min(k, int(sizes.sum())))
        if deviation.any():
            draws = np.random.default_rng(SEED).standard_normal((DRAWS, G)) * deviation
            moved = np.maximum(np.rint(sizes + draws), members).astype(np.int64)
            self.quota_risk = float(np.mean([(share_quota(row, min(k, int(row.sum()))) != self.quota).any() for row in moved]))
        self.sizes = sizes

    def _select(self, predicted: bool) -> None:
        """Run the backend's selection on what is known; at first on the best predicted ones too."""
        taking = self.known & self.live
        if predicted:
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
        self.paths = []
        for part, gains in zip(
            np.split(np.asarray(picks.indices), np.cumsum(asked)[:-1]),
            np.split(np.asarray(picks.gains), np.cumsum(asked)[:-1]),
            strict=True,
        ):
            self.paths.append(Path.of(columns[part], gains, W[:, part]))

    def _risks(self) -> None:
        """Fill risk (M,): the probability that a candidate, were it known, would have been picked."""
        pool = self.pool
        M = len(self.score)
        self.risk = np.zeros(M)
        self.class_tail: Tail | None = None
        outside = pool.rest & self.live if (~self.known).any() else np.zeros(M, bool)
        columns = np.flatnonzero(outside)
        if not len(columns):
            return
        self.tail = Tail.of(self.errors)
        by_mean = self.problem.rules.by_class and self._groups_by_mean()
        if by_mean:
            self.class_tail = Tail.of(pool.class_errors())
        negligible = 1e-3 * EXCLUSION_RISK / len(columns)
        guess = self._predicted()
        for g, path in enumerate(self.paths):
            if self.quota[g] == 0:
                continue
            lowest = -np.inf if self.missing[g] else path.lowest
            chance = self._class_chance(columns, g) if by_mean else np.ones(len(columns))
            near = np.minimum(self.tail.exceeds((lowest - guess[columns]) / self.scale[columns]), chance) > negligible
            mine, chance = columns[near], chance[near]
            if not len(mine):
                continue
            threshold = np.full(len(mine), -np.inf) if self.missing[g] else path.thresholds(self.problem.weights(mine))
            self.risk[mine] += np.minimum(self.tail.exceeds((threshold - guess[mine]) / self.scale[mine]), chance)
        self.risk = np.minimum(self.risk, 1)

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
        assert self.class_tail is not None
        mean = self.pool.guessed_mean
        behind = (mean[:, columns].max(axis=0) - mean[g, columns]) / self.pool.unit(columns)
        return np.where(behind == 0, 1, self.class_tail.exceeds(behind))

    @property
    def exclusion_risk(self) -> float:
        """Probability that somebody left out would have been picked."""
        left = self.risk[~self.known]
        return float(-np.expm1(np.log1p(-np.minimum(left, 1 - 1e-12)).sum()))

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
        more = order[left > EXCLUSION_RISK] if left[0] > EXCLUSION_RISK or not self.settled else order[:0]
        if self.quota_risk > QUOTA_RISK and len(more) == 0:
            more = self._undecided(order)
        return np.sort(more)

    def _undecided(self, unknown: np.ndarray) -> np.ndarray:
        """Return the candidates nearest to another group: enough of them to expect no error among the others."""
        if self.class_tail is None:
            return unknown
        mean = np.partition(self.pool.guessed_mean[:, unknown], -2, axis=0)
        behind = (mean[-1] - mean[-2]) / self.pool.unit(unknown)
        order = np.argsort(behind, kind="stable")
        return unknown[order[: max(len(self.score) // 20, 64)]]

    def weights_risk(self) -> float:
        """Probability that the estimated weights of the score change who is picked."""
        if self.totals is None or not self.totals.covariance.any():
            return 0.0
        draws = np.random.default_rng(SEED).standard_normal((DRAWS, 4))
        weight = scoring.relative_weights(self.totals, self.problem.rules.alpha, np.concatenate([np.zeros((1, 4)), draws]))
        changed = np.zeros(DRAWS, bool)
        for g, path in enumerate(self.paths):
            others = np.setdiff1d(np.flatnonzero(self.known & self.live & (self.pooled == g)), path.picks)
            if not len(path.picks) or not len(others):
                continue
            reach = np.argsort(-self.score[others], kind="stable")[: 4 * len(path.picks) + 64]
            sides = [(self.problem.weights(columns), weight @ self.pool.measured[:, columns]) for columns in (path.picks, others[reach])]
            changed |= share_displaced(path, sides[0], sides[1])[1:]
        return float(changed.mean())

    def audit_wanted(self) -> int:
        """Return how many more candidates to audit so that the score's weights are known well enough; never more than are shortlisted."""
        audited = int(self.pool.audit.sum())
        most = max(int(self.known.sum()) - 2 * audited, 0)
        risk = self.weights_risk()
        return min(most, round(audited * ((risk / WEIGHTS_RISK) ** 2 - 1))) if risk > WEIGHTS_RISK else 0

    def result(self, rounds: int) -> Screened:
        """Wrap up."""
        pool = self.pool
        exact = bool(self.known.all())
        exclusion, weights = self.exclusion_risk, self.weights_risk()
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
        scores = Scores(self.score, self.group, self.live, pool.classes)
        return Screened(scores, self.known & self.live, self.quota, certificate)


def _error(exact: np.ndarray, guess: np.ndarray) -> float:
    """Return the root mean square of the part of the measures that a straight line through the guess leaves, in their own spread."""
    left = 0.0
    for a, b in zip(exact, guess, strict=True):
        spread = a.std()
        if spread > 0:
            line = np.polyfit(b, a, 1) if b.std() > 0 else np.array([0.0, a.mean()])
            left += float(np.square((a - np.polyval(line, b)) / spread).mean())
    return float(np.sqrt(left))
