"""Criteria: functions from class moments to a score and a class per candidate.

To write your own, take :class:`~nc_fast.types.ClassMoments` and return ``(score (M,), group (M,))``, ``group`` being row
numbers of ``moments.mean``; pass it as ``campaign(..., criterion=yours)``. ``moments.within()``, ``.between()`` and
``.spread()`` are the building blocks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import array_namespace, as_numpy
from nc_fast.types import Array, ClassMoments, Scores

Criterion = Callable[[ClassMoments], tuple[Array, Array]]


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
    """Return the scores of a user's criterion, checked."""
    score, group = checks.criterion_result(criterion(moments), moments)
    return Scores(score, group, moments.spread() > 0, moments.classes)


def _unit(v: Array) -> Array:
    largest = abs(v).max()
    checks.no_overflow(float(largest))
    if largest == 0:
        return v
    v = v / largest  # first, so that the squares neither overflow nor vanish
    return v / float(np.sqrt(np.square(as_numpy(v)).sum()))  # by NumPy: torch's sum depends on the number of threads
