"""What is known of the candidates: a surrogate's guess of all, exact moments of some."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nc_fast.criteria import Criterion, apply_criterion
from nc_fast.screening import scoring
from nc_fast.screening.problem import ScreeningProblem
from nc_fast.types import ClassMoments

SUBSAMPLE_GAIN = 0.6  # the subsample takes the mixture's place where its errors are this much smaller
COMPARED_ON = 512  # candidates, or up to twice as many
TINY = np.finfo(np.float64).tiny


@dataclass(frozen=True, eq=False)
class Guess:
    """What a surrogate says of every candidate."""

    surrogate: str  # in words
    classes: np.ndarray  # (C,) labels
    mean: np.ndarray  # (C, M), of the activation within each class
    deviation: np.ndarray  # (C, M)
    measures: np.ndarray  # (3, M): spread, between, within
    score: np.ndarray  # (M,), a criterion's own
    group: np.ndarray  # (M,)

    @staticmethod
    def of(surrogate: str, moments: ClassMoments, criterion: Criterion | None) -> Guess:
        deviation = np.sqrt(moments.m2 / np.maximum(moments.count, 1)[:, None]) + TINY
        score, group = _score_and_group(criterion, moments)
        return Guess(surrogate, moments.classes, moments.mean, deviation, scoring.measures(moments), score, group)


@dataclass(frozen=True, eq=False)
class Evidence:
    """Everything known of the candidates so far."""

    problem: ScreeningProblem
    guess: Guess
    known: np.ndarray  # (M,) bool, candidates with exact moments
    audit: np.ndarray  # (M,) bool, those of them that were drawn at random
    sample: np.ndarray  # (M,) bool, those of the audit that stand for the unknown: a random sample of both together
    measures: np.ndarray  # (3, M), exact where known; score and group too
    score: np.ndarray  # (M,)
    group: np.ndarray  # (M,)
    parts: tuple[tuple[np.ndarray, ClassMoments], ...] = ()  # columns and their exact moments, in the order they were taken

    @staticmethod
    def none_yet(problem: ScreeningProblem) -> Evidence:
        """Ask the surrogate; nothing is known exactly."""
        guess = Guess.of(problem.surrogate_name, problem.surrogate(), problem.rules.criterion)
        nobody, zero = np.zeros(problem.shape[1], bool), np.zeros(problem.shape[1])
        return Evidence(problem, guess, nobody, nobody, nobody, np.stack([zero] * 3), zero, zero.astype(np.int64))

    @property
    def rest(self) -> np.ndarray:
        """(M,) bool: the unknown candidates and the sample."""
        return np.asarray(~self.known | self.sample)

    @property
    def unknown(self) -> np.ndarray:
        """Columns without exact moments."""
        return np.flatnonzero(~self.known)

    def with_exact(self, columns: np.ndarray, urgency: np.ndarray | None = None) -> Evidence:
        """Add exact moments of these columns; with ``urgency`` (M,), they are the unknown candidates where it is highest.

        Then nobody unknown is as urgent any more, so audited candidates that are resemble nobody unknown and leave the sample.
        """
        if not len(columns):
            return self
        moments = self.problem.exact(columns)
        score, group = _score_and_group(self.problem.rules.criterion, moments)
        return replace(
            self,
            known=_changed(self.known, columns, True),
            sample=self.sample if urgency is None else self.sample & (urgency < urgency[columns].min()),
            measures=_changed(self.measures, columns, scoring.measures(moments)),
            score=_changed(self.score, columns, score),
            group=_changed(self.group, columns, group),
            parts=(*self.parts, (columns, moments)),
        )

    def with_audit(self, n: int, rng: np.random.Generator) -> Evidence:
        """Add exact moments of n unknown candidates drawn at random."""
        drawn = np.sort(rng.choice(self.unknown, min(n, len(self.unknown)), replace=False))
        audit, sample = (_changed(array, drawn, True) for array in (self.audit, self.sample))
        return replace(self, audit=audit, sample=sample).with_exact(drawn)

    def with_better_guess(self) -> Evidence:
        """Put the second surrogate in the first one's place where its errors on the first audit are clearly smaller."""
        problem, second = self.problem, self.problem.second
        columns, moments = self.parts[0]
        some = slice(None, None, max(len(columns) // COMPARED_ON, 1))
        columns, exact = columns[some], scoring.measures(scoring.columns(moments, some))
        if second and _error(exact, scoring.measures(second(columns))) < SUBSAMPLE_GAIN * _error(exact, self.guess.measures[:, columns]):
            moments = second(np.arange(problem.shape[1]))
            return replace(self, guess=Guess.of(problem.second_name, moments, problem.rules.criterion))
        return self


def _score_and_group(criterion: Criterion | None, moments: ClassMoments) -> tuple[np.ndarray, np.ndarray]:
    """Return what a criterion says of every candidate; without one, scores of 0: the information bottleneck's depend on the pool."""
    if criterion is None:
        return np.zeros(moments.n_candidates), moments.mean.argmax(axis=0)
    scores = apply_criterion(criterion, moments)
    return scores.score, scores.group


def _changed(array: np.ndarray, columns: np.ndarray, values: Any) -> np.ndarray:
    """Return a copy with other values in these columns."""
    array = array.copy()
    array[..., columns] = values
    return array


def _error(exact: np.ndarray, guess: np.ndarray) -> float:
    """Return the root of the sum over the measures (3, n) of the part of their variance that a straight line in the guess leaves."""
    pairs = [(a, b) for a, b in zip(exact, guess, strict=True) if a.std() > 0]
    return float(np.sqrt(sum(1 - np.corrcoef(a, b)[0, 1] ** 2 if b.std() > 0 else 1.0 for a, b in pairs)))
