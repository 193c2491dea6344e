"""Criteria: functions from class moments to a score and a class per candidate.

To write your own, take :class:`~nc_fast.types.ClassMoments` and return ``(score (M,), group (M,))``, ``group`` being row
numbers of ``moments.mean``; pass it as ``campaign(..., criterion=yours)``. ``moments.within()``, ``.between()`` and
``.spread()`` are the building blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, array_namespace, as_numpy, is_tensor, like
from nc_fast.inputs.labels import classified
from nc_fast.types import ClassMoments, Scores

__all__ = ["Criterion", "apply_criterion", "ib_scores"]

Criterion = Callable[[ClassMoments], tuple[Array, Array]]
"""What ``criterion=`` takes: class moments of M candidates -> ``(score (M,), group (M,))``; scores finite, higher is better."""


def ib_scores(moments: ClassMoments, *, alpha: float = 0.5) -> Scores:
    """Score candidates by the information-bottleneck criterion.

    ``score = alpha * unit(spread) + (1 - alpha) * unit(unit(between) - unit(within))``, where ``unit`` divides by the
    Euclidean norm over the pool.

    Parameters
    ----------
    moments : ClassMoments of M candidates over C classes.
    alpha : float in [0, 1]
        Weight of I(X;Z), near 1 in front layers, near 0 in rear ones. Below 1 it needs C >= 2.

    Returns
    -------
    Scores
        ``score`` (M,) float64; ``group`` (M,), the class with the highest mean, the first one on ties.

    Raises
    ------
    ValueError
        When alpha is outside [0, 1], or below 1 with fewer than two classes; when the moments have overflowed.

    Notes
    -----
    Source: Mao et al., CIKM 2021, section 3.2; the authors' program calls 1 - alpha what the paper calls alpha.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> X, y = np.array([[1.0, 1.0], [1.0, 2.0], [9.0, 1.0], [9.0, 2.0]]), np.array(["a", "a", "b", "b"])
    >>> scores = nc_fast.ib_scores(nc_fast.class_moments(np.eye(2), X, y), alpha=0.0)
    >>> scores.score.round(3).tolist()  # the first candidate separates the classes, the second does not
    [0.707, -0.707]
    >>> scores.classes[scores.group].tolist()  # means 1 and 9 under the first; equal means tie to the first class
    ['b', 'a']
    """
    alpha = checks.alpha(alpha)
    checks.kind("moments", moments, ClassMoments)
    checks.enough_classes(alpha, moments.classes)
    return scores_of(moments, alpha, _unit)


def scores_of(moments: ClassMoments, alpha: float, unit: Callable[[Array], Array]) -> Scores:
    """Return the scores that ``ib_scores`` gives, vectors brought to length 1 by ``unit``: the pool may be in parts."""
    spread = moments.spread()
    score = alpha * unit(spread)
    if alpha < 1:
        score = score + (1 - alpha) * unit(unit(moments.between()) - unit(moments.within()))
    return Scores(score, array_namespace(score).argmax(moments.mean, 0), spread > 0, moments.classes)


def apply_criterion(criterion: Criterion, moments: ClassMoments) -> Scores:
    """Return the scores of a criterion of the user's own.

    Parameters
    ----------
    criterion : callable
        Class moments -> (score (M,), group (M,)).
    moments : ClassMoments of M candidates.

    Returns
    -------
    Scores

    Raises
    ------
    TypeError, ValueError
        When the criterion returns something else, or scores that are not finite.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> moments = nc_fast.class_moments(np.eye(2), np.array([[1.0, 4.0], [3.0, 2.0]]), ["a", "b"])
    >>> nc_fast.criteria.apply_criterion(lambda m: (m.spread(), m.mean.argmax(0)), moments).group.tolist()
    [1, 0]
    """
    checked_criterion(criterion)
    checks.kind("moments", moments, ClassMoments)
    score, group = _checked_result(criterion(moments), moments)
    return Scores(score, group, moments.spread() > 0, moments.classes)


def checked_criterion(value: Criterion | None) -> Criterion | None:
    """Check a criterion: None is the information-bottleneck score."""
    if not (value is None or callable(value)):
        raise TypeError(f"criterion: expected a callable or None, got {type(value).__name__}")
    return value


def _unit(v: Array) -> Array:
    largest = abs(v).max()
    checks.no_overflow(float(largest))
    if largest == 0:
        return v
    v = v / largest  # first, so that the squares neither overflow nor vanish
    return v / float(np.sqrt(np.square(as_numpy(v)).sum()))  # by NumPy: torch's sum depends on the number of threads


def checked_scores(value: object, groups: object, n_candidates: int, *, by_class: bool) -> Scores:
    """Check what select() is given as scores: a Scores, or (M,) numbers and optionally (M,) group labels."""
    if not isinstance(value, Scores):
        score = checks.as_array("scores", value)
        if as_numpy(score).dtype.kind not in "fiu":
            raise TypeError(f"scores: expected Scores or (M,) numbers, got {score.dtype}")
        if groups is None and by_class:
            raise ValueError("groups: expected (M,) labels with an array of scores when by_class=True, got None")
        if tuple(score.shape) != (n_candidates,):
            raise ValueError(f"scores: expected shape (M,) = ({n_candidates},), got {tuple(score.shape)}")
        given = np.zeros(n_candidates, np.int64) if groups is None else groups
        codes, classes = classified(checks.label_values("groups", given, n_candidates))
        xp = array_namespace(score)
        value = Scores(xp.asarray(score, dtype=xp.float64), like(score, codes), like(score, np.ones(n_candidates, bool)), classes)
    elif groups is not None:
        raise ValueError("groups: expected None when scores is a Scores, which has its own, got labels")
    if tuple(value.score.shape) != (n_candidates,):
        raise ValueError(f"scores: expected {n_candidates} candidates, the columns of W, got {value.score.shape[0]}")
    checks.finite("scores", value.score)
    return value


def checked_given(value: object, n_candidates: int, k: int) -> np.ndarray:
    """Check what select() is given as there already; return (n,) int64."""
    given = as_numpy(checks.as_array("given", [] if value is None else value))
    if given.shape == (0,):
        return np.zeros(0, np.int64)  # an empty list is one of floats to NumPy
    if given.dtype.kind not in "iu":
        raise TypeError(f"given: expected (n,) integers, got {given.dtype}")
    if given.ndim != 1:
        raise ValueError(f"given: expected (n,) integers, got shape {given.shape}")
    numbers, times = np.unique(given, return_counts=True)
    wrong = np.flatnonzero((times > 1) | (numbers < 0) | (numbers >= n_candidates))
    if len(wrong):
        got = f"{numbers[wrong[0]]}{' twice' if times[wrong[0]] > 1 else ''}"
        raise ValueError(f"given: expected distinct integers from 0 to M - 1 = {n_candidates - 1}, got {got}")
    if len(given) + k > n_candidates:
        raise ValueError(f"given: expected at most M - k = {n_candidates} - {k} candidates, got {len(given)}")
    return given.astype(np.int64)


def _checked_result(result: object, moments: ClassMoments) -> tuple[Array, Array]:
    """Check what a user's criterion returned; return score (M,) float64 and group (M,) int64."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"criterion: expected a callable returning (score (M,), group (M,)), got {type(result).__name__}")
    xp = array_namespace(moments.mean)
    where = {"device": moments.mean.device} if is_tensor(moments.mean) else {}
    score, group = xp.asarray(result[0], **where), xp.asarray(result[1], **where)
    for name, array in (("score", score), ("group", group)):
        if tuple(array.shape) != (moments.n_candidates,):
            raise ValueError(f"criterion: expected {name} of shape (M,) = ({moments.n_candidates},), got {tuple(array.shape)}")
    if not checks.is_integer(group):
        raise TypeError(f"criterion: expected group as integers, row numbers of moments.mean, got {group.dtype}")
    if group.min() < 0 or group.max() >= len(moments.classes):
        raise ValueError(f"criterion: expected group in [0, {len(moments.classes)}), got {int(group.min())} to {int(group.max())}")
    score = xp.asarray(score, dtype=xp.float64)
    checks.finite("criterion's score", score)
    return score, xp.asarray(group, dtype=xp.int64)
