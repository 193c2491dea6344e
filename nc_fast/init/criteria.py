"""The Fisher criterion, which campaign_ knows by name beside the information-bottleneck one."""

from __future__ import annotations

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, array_namespace
from nc_fast.types import ClassMoments


def fisher_scores(moments: ClassMoments) -> tuple[Array, Array]:
    """Score candidates by ``between² / within²``; a criterion for :func:`nc_fast.campaign` as well.

    Parameters
    ----------
    moments : ClassMoments of M candidates over C >= 2 classes.

    Returns
    -------
    score : (M,) float64, >= 0
        A candidate that is constant inside every class but differs between classes scores twice the best of the others.
    group : (M,) int64
        The class with the highest mean.

    Raises
    ------
    ValueError
        With fewer than two classes.

    Notes
    -----
    Source: Fisher, "The use of multiple measurements in taxonomic problems", 1936, per candidate.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> from nc_fast.init import fisher_scores
    >>> X, y = np.array([[1.0, 1.0], [3.0, 2.0], [9.0, 1.0], [11.0, 2.0]]), [0, 0, 1, 1]
    >>> fisher_scores(nc_fast.class_moments(np.eye(2), X, y))[0].tolist()
    [16.0, 0.0]
    """
    checks.kind("moments", moments, ClassMoments)
    if len(moments.classes) < 2:
        raise ValueError(f"y: expected at least two classes for the Fisher criterion, got {len(moments.classes)}")
    xp = array_namespace(moments.mean)
    between, within = moments.between() ** 2, moments.within() ** 2
    scattered = within > 0
    score = xp.where(scattered, between / xp.where(scattered, within, xp.ones_like(within)), xp.zeros_like(within))
    perfect = 2 * score.max() if score.max() > 0 else score.max() + 1
    return xp.where(~scattered & (between > 0), perfect, score), xp.argmax(moments.mean, 0)
