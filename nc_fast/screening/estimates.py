"""Scores and groups of the candidates: exact where known, predicted elsewhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nc_fast.runtime.threads import Stop, ordered_map, thread_count
from nc_fast.screening import scoring
from nc_fast.screening.evidence import Evidence
from nc_fast.screening.tail import Tail, regress

NEAR_FIRST = 30.0  # units behind the first class: errors within teach how often classes change places
FEWEST_ERRORS = 40  # that a tail is fitted to


@dataclass(frozen=True, eq=False)
class ClassPrediction:
    """Class means predicted from the surrogate's, and how wrong they are. The class with the highest mean is a candidate's group.

    An error here is one of the difference between two means, a class's and the first's; its unit is the hypotenuse of their scales.
    """

    mean: np.ndarray  # (C, M)
    scale: np.ndarray  # (C, M), of the errors of the means
    first: np.ndarray  # (M,), the class with the highest predicted mean
    tail: Tail  # of the errors, in their units

    def chance(self, columns: np.ndarray, g: int) -> np.ndarray:
        """Return (n,): the probability that each candidate belongs to class g."""
        first = self.first[columns]
        unit = np.hypot(self.scale[g, columns], self.scale[first, columns])
        behind = (self.mean[first, columns] - self.mean[g, columns]) / unit
        return np.where(behind == 0, 1, self.tail.exceeds(behind))

    def chance_of_another(self) -> np.ndarray:
        """Return (M,): the largest probability of a class other than the first."""
        everybody = np.arange(len(self.first))
        chances = [np.where(self.first == g, 0, self.chance(everybody, g)) for g in range(len(self.mean))]
        return np.asarray(np.max(chances, axis=0))


@dataclass(frozen=True, eq=False)
class Estimates:
    """Scores and groups of the candidates, and how wrong the predicted ones may be."""

    score: np.ndarray  # (M,), exact where known, else predicted; group too
    group: np.ndarray  # (M,)
    live: np.ndarray  # (M,) bool, False where a candidate has no weights or is known to be dead
    competes_in: np.ndarray  # (M,), the group whose quota it may be picked for: its own, or 0 where all compete with all
    predicted: np.ndarray  # (M,), predicted scores, of the known too
    scale: np.ndarray  # (M,), of the errors of predicted scores
    tail: Tail | None  # of these errors in units of their scale, as seen where known; None where all are known
    totals: scoring.Totals | None  # which the weights of the score follow from; None with a criterion of the user's
    classes: ClassPrediction | None  # None where the group of a candidate is not asked for, or not known to be predictable


def estimate(evidence: Evidence) -> Estimates:
    """Estimate scores and groups from what is known."""
    known, guess, rules = evidence.known, evidence.guess, evidence.problem.rules
    totals = None
    exact, guessed = evidence.score, guess.score
    if rules.criterion is None:
        totals = scoring.estimate_totals(evidence.measures, guess.measures, evidence.rest, np.flatnonzero(evidence.sample))
        weights = scoring.weights(totals.value, rules.alpha)
        exact, guessed = weights @ evidence.measures, weights @ guess.measures
    predicted, scale, tail = guessed, np.zeros(len(guessed)), None
    if not known.all():
        columns = np.flatnonzero(known)
        features = np.concatenate([np.ones((1, len(guessed))), guessed[None], guess.measures])
        correction, scale = regress(features, exact[columns] - guessed[columns], columns)
        predicted = guessed + correction
        tail = Tail.of((exact - guessed - correction)[columns] / scale[columns])
    group = np.where(known, evidence.group, guess.group)
    dead = known & (evidence.measures[scoring.SPREAD] == 0)
    return Estimates(
        score=np.where(known, exact, predicted),
        group=group,
        live=evidence.problem.live & ~dead,
        competes_in=group if rules.by_class else np.zeros_like(group),
        predicted=predicted,
        scale=scale,
        tail=tail,
        totals=totals,
        classes=_predict_classes(evidence),
    )


def _predict_classes(evidence: Evidence) -> ClassPrediction | None:
    """Predict the class means; None where groups are not what they decide, or where too few errors are seen.

    Only errors of classes near enough to be confused with the first count: those of classes far behind are not alike.
    """
    guess, rules = evidence.guess, evidence.problem.rules
    by_mean = rules.criterion is None or (guess.group == guess.mean.argmax(axis=0)).all()
    if not (rules.by_class and by_mean) or evidence.known.all():
        return None
    known = np.concatenate([columns for columns, _ in evidence.parts])
    exact = np.concatenate([moments.mean for _, moments in evidence.parts], axis=1)
    mean, scale = np.empty((2, *guess.mean.shape))

    def predict(c: int, _: Stop) -> None:
        features = np.stack([np.ones(len(evidence.known)), guess.mean[c], guess.deviation[c], *guess.measures])
        correction, scale[c] = regress(features, exact[c] - guess.mean[c, known], known)
        np.add(guess.mean[c], correction, out=mean[c])

    for _ in ordered_map(predict, range(len(exact)), thread_count()):
        pass
    first = mean.argmax(axis=0)
    predicted, scales, top, n = mean[:, known], scale[:, known], first[known], np.arange(len(known))
    behind, unit = predicted[top, n] - predicted, np.hypot(scales, scales[top, n])
    error = exact - exact[top, n] + behind
    near = (np.arange(len(exact))[:, None] != top) & (behind <= NEAR_FIRST * unit)
    errors = (error / unit)[near]
    return ClassPrediction(mean, scale, first, Tail.of(errors)) if len(errors) >= FEWEST_ERRORS else None
