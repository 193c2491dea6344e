"""The guard: how many of the neurons pursuit may choose before it fits the noise.

Pursuit overfits where samples are few and candidates many. Leave-one-out on the neurons it chose does not see that, for the
sample that is left out has helped to choose them; so errors are measured on samples that had no part in the choice.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from nc_fast.gram import Gram, add_samples
from nc_fast.heads import solve
from nc_fast.picks import filled
from nc_fast.sklearn.rows import Rows, Sample
from nc_fast.sklearn.selection import activations, gram_of, gram_of_sample, pursued
from nc_fast.stages.moments import CandidatePool

FOLDS = 4
LADDER = (0, 3, 5, 10, 15, 20, 30, 40, 60, 80, 120, 160, 240, 320, 480, 640, 960, 1280, 1920, 2560)
LEAST_SAMPLES = 8  # two a fold
FEW = 500  # samples below which one draw of folds decides too much: three are averaged
ERRORS_OF_FEW = 1.0  # standard errors by which pursuing more has to be better there
ONE_SPLIT_FROM = 2000  # samples from which a quarter held out once is enough
SAFE_FROM = 8  # so many times the samples that are picked on, and the head is past fitting their noise: measured, docs/estimators.md


@dataclass(frozen=True, eq=False)
class Trial:
    """One choice of neurons and the samples it is judged by.

    Attributes
    ----------
    picks : in order of picking.
    members : sorted candidates, the picks and the first of the pool.
    gram : of the members, over the samples that heads are fitted on.
    Z, held : the members' activations on the samples held out, and these.
    numbers : which these are.
    """

    picks: np.ndarray
    members: np.ndarray
    gram: Gram
    Z: np.ndarray
    held: Sample
    numbers: np.ndarray


def guarded(pool: CandidatePool, rows: Rows, sample: Sample, k: int, ridge: float | None, rng: np.random.Generator) -> np.ndarray:
    """Return the candidates to be pursued, in order; the others of the k are the first of the pool.

    Their number is the one of the least held-out squared error. Below 500 samples that is mostly chance: there it is the
    least number whose error is within one standard error of the least (Breiman et al., "Classification and Regression
    Trees", 1984), the standard error being that of the difference, sample by sample.
    ``sample`` are the first rows, on which neurons are picked.
    """
    n, unseen = sample.size, rows.size - sample.size
    most = min(k, n // 2)
    if n < LEAST_SAMPLES:
        return np.zeros(0, np.int64)
    if rows.size >= SAFE_FROM * n:
        return pursued(pool, sample, most)
    ladder = [count for count in LADDER if count < most] + [most]
    by_unseen = unseen >= n // 2
    span = sample.T.min(axis=0), sample.T.max(axis=0)  # a few rows far from all others would outweigh the rest
    errors, weight = np.zeros((len(ladder), rows.size)), np.zeros(rows.size)
    for trial in [_by_unseen(pool, rows, sample, most, k)] if by_unseen else _by_folds(pool, sample, most, k, rng):
        weight[trial.numbers] = trial.held.weight
        for row, count in enumerate(ladder):
            columns = np.searchsorted(trial.members, filled(trial.picks[:count], k))
            head = solve(columns_of(trial.gram, columns), ridge)
            predicted = (trial.Z[:, columns] @ head.weights + head.intercept).clip(*span)
            errors[row, trial.numbers] += ((predicted - trial.held.T) ** 2).sum(axis=1)
    count = ladder[_best(errors, weight / weight.sum(), within=ERRORS_OF_FEW if n < FEW else 0.0)]
    return trial.picks[:count] if by_unseen else pursued(pool, sample, count)


def _best(errors: np.ndarray, share: np.ndarray, within: float) -> int:
    """Return the first row of ``errors`` (L, n) whose mean is within so many standard errors of the least mean."""
    excess = errors - errors[np.argmin(errors @ share)]
    mean = excess @ share
    standard_error = np.sqrt((excess - mean[:, None]) ** 2 @ share**2)
    return int(np.argmax(mean <= within * standard_error))


def folds(n: int, rng: np.random.Generator) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (samples to fit on, samples held out): the fewer there are, the more often."""
    for _ in range(3 if n < FEW else 1):
        fold = rng.permutation(n) % FOLDS
        for number in range(FOLDS if n < ONE_SPLIT_FROM else 1):
            yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _by_folds(pool: CandidatePool, sample: Sample, most: int, k: int, rng: np.random.Generator) -> Iterator[Trial]:
    """Yield the choice made without each fold in turn."""
    for train, held in folds(sample.size, rng):
        fitted, judged = sample.take(train), sample.take(held)
        picks = pursued(pool, fitted, most)
        members = np.union1d(picks, np.arange(k))
        neurons = pool.take(members)
        gram = gram_of_sample(activations(neurons, fitted.X), fitted)
        yield Trial(picks, members, gram, activations(neurons, judged.X), judged, held)


def _by_unseen(pool: CandidatePool, rows: Rows, sample: Sample, most: int, k: int) -> Trial:
    """Return the choice made on the sample, its heads fitted on it and half of the other rows, judged by the other half."""
    picks = pursued(pool, sample, most)
    members = np.union1d(picks, np.arange(k))
    neurons, middle = pool.take(members), (sample.size + rows.size) // 2
    Z = activations(neurons, sample.X)
    sums = add_samples(None, Z, sample.T, sample.weight, exact=True)
    for block in rows.blocks(sample.size, middle):
        more = rows.sample(block)
        sums = add_samples(sums, activations(neurons, more.X), more.T, more.weight, exact=True)
    judged = rows.sample(slice(middle, min(rows.size, middle + sample.size)))
    numbers = middle + np.arange(judged.size)
    return Trial(picks, members, gram_of(sums, Z, sample.T, sample.weight), activations(neurons, judged.X), judged, numbers)


def columns_of(gram: Gram, columns: np.ndarray) -> Gram:
    """Return the matrices of some of the activations."""
    Z, T, weight = gram.rows
    return replace(
        gram,
        mean=gram.mean[columns],
        gram=gram.gram[np.ix_(columns, columns)],
        cross=gram.cross[columns],
        rows=(Z[:, columns], T, weight),
    )
