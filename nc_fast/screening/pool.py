"""What is known of the candidates: a surrogate's guess of all, exact moments of some."""

from __future__ import annotations

import numpy as np

from nc_fast.criteria import apply_criterion
from nc_fast.runtime.threads import Stop, ordered_map, thread_count
from nc_fast.screening import scoring
from nc_fast.screening.problem import SEED, Problem
from nc_fast.screening.tail import Tail, regress
from nc_fast.types import ClassMoments

SUBSAMPLE_GAIN = 0.6  # the subsample takes the mixture's place where its errors are this much smaller
COMPARED_ON = 512  # candidates, or up to twice as many
NEAR_CLASS = 30.0  # units behind the first class: errors within teach how often classes change places
TINY = np.finfo(np.float64).tiny


class Pool:
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
        self.guessed_deviation = np.sqrt(moments.m2 / np.maximum(moments.count, 1)[:, None]) + TINY
        self.class_mean, self.class_scale = np.empty((2, *moments.mean.shape))
        self.class_tail: Tail | None = None
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

    def learn(self, columns: np.ndarray, key: np.ndarray | None = None) -> None:
        """Take exact moments of these columns; with the ``key`` (M,) they were chosen by, their likes leave the audited rest."""
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
        if key is not None:
            self.rest &= ~(self.audit & (key >= key[columns].min()))

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
        some = slice(None, None, max(len(columns) // COMPARED_ON, 1))
        columns, exact = columns[some], scoring.measures(scoring.columns(moments, some))
        second = scoring.measures(problem.second(columns))
        ours, theirs = (_error(exact, found) for found in (self.guessed[:, columns], second))
        if theirs < SUBSAMPLE_GAIN * ours:
            self._set_surrogate(problem.second(np.arange(problem.shape[1])))
            self.name = problem.second_name

    def class_errors(self) -> np.ndarray:
        """Correct the guessed class means by regression on what is known; return errors of their differences, in units.

        Only classes near enough to be confused with the first are asked: errors of those far behind are not alike.
        """
        known = np.concatenate([columns for columns, _ in self._parts])
        exact = np.concatenate([moments.mean for _, moments in self._parts], axis=1)

        def correct(c: int, _: Stop) -> None:
            own = np.stack([np.ones(len(self.known)), self.guessed_mean[c], self.guessed_deviation[c], *self.guessed])
            correction, self.class_scale[c] = regress(own, exact[c] - self.guessed_mean[c, known], known)
            np.add(self.guessed_mean[c], correction, out=self.class_mean[c])

        for _ in ordered_map(correct, range(len(exact)), thread_count()):
            pass
        self.first_class = self.class_mean.argmax(axis=0)
        guessed, top = self.class_mean[:, known], self.first_class[known]
        n = np.arange(len(known))
        behind = guessed[top, n] - guessed
        unit = np.stack([self.class_unit(known, g) for g in range(len(guessed))])
        error = exact - exact[top, n] + behind
        near = (np.arange(len(guessed))[:, None] != top) & (behind <= NEAR_CLASS * unit)
        return np.asarray((error / unit)[near])

    def class_unit(self, columns: np.ndarray, g: int) -> np.ndarray:
        """Return (n,), the scale of the error of the difference between the mean of class g and that of the first class."""
        unit: np.ndarray = np.hypot(self.class_scale[g, columns], self.class_scale[self.first_class[columns], columns])
        return unit

    def class_behind(self, columns: np.ndarray, g: int) -> np.ndarray:
        """Return (n,), how many units the mean of class g is behind the first class's."""
        mean = self.class_mean
        return np.asarray((mean[self.first_class[columns], columns] - mean[g, columns]) / self.class_unit(columns, g))


def _error(exact: np.ndarray, guess: np.ndarray) -> float:
    """Return the root mean square of the part of the measures that a straight line through the guess leaves, in their own spread."""
    left = 0.0
    for a, b in zip(exact, guess, strict=True):
        spread = a.std()
        if spread > 0:
            line = np.polyfit(b, a, 1) if b.std() > 0 else np.array([0.0, a.mean()])
            left += float(np.square((a - np.polyval(line, b)) / spread).mean())
    return float(np.sqrt(left))
