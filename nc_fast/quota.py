"""Sharing k picks over groups as evenly as their sizes allow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from nc_fast.inputs import checks


def share_quota(sizes: npt.ArrayLike, k: int) -> npt.NDArray[np.int64]:
    """Share ``k`` over groups of the given sizes.

    Repeatedly every unsatisfied group is offered an equal whole share; a group smaller than the share is taken whole and
    the share recomputed; what equal shares leave over goes one each to the largest groups (ties: the later group).

    Parameters
    ----------
    sizes : (G,) int
        Live candidates per group, in class order.
    k : int
        Picks to share, at most ``sum(sizes)``.

    Returns
    -------
    (G,) int64
        Picks per group, at most the group's size, summing to k.

    Raises
    ------
    TypeError, ValueError
        When sizes are no whole numbers from 0 on; when k is none from 0 to ``sum(sizes)``.

    Notes
    -----
    Source: the authors' program (Mao et al., CIKM 2021), its allocation of k over classes.

    Examples
    --------
    >>> share_quota([10, 3, 20], 14).tolist()
    [5, 3, 6]
    """
    given = checks.as_array("sizes", sizes)
    if given.size and given.dtype.kind not in "iu":
        raise TypeError(f"sizes: expected (G,) integers, got {given.dtype}")
    if given.ndim != 1 or (given < 0).any():
        raise ValueError(f"sizes: expected (G,) integers >= 0, got shape {given.shape} from {given.min(initial=0)} on")
    counts = given.astype(np.int64)
    k = checks.integer("k", k)
    if not 0 <= k <= counts.sum():
        raise ValueError(f"k: expected 0 <= k <= sum(sizes) = {counts.sum()}, got {k}")
    quota = np.zeros(len(counts), np.int64)
    order = np.argsort(counts, kind="stable")
    for position, group in enumerate(order):
        # Smallest first: once a group is larger than the equal share, so are all that follow.
        share = (k - quota.sum()) // (len(order) - position)
        if counts[group] > share:
            rest = order[position:]
            quota[rest] = share
            left_over = k - quota.sum()
            quota[rest[len(rest) - left_over :]] += 1
            break
        quota[group] = counts[group]
    return quota


def share_quota_beside(sizes: npt.NDArray[np.int64], given: npt.NDArray[np.int64], k: int) -> npt.NDArray[np.int64]:
    """Share ``k`` picks, those ``given`` to each group among them: a group with more than its share keeps it, the others share the rest.

    >>> share_quota_beside(np.array([10, 10, 10]), np.array([5, 0, 1]), 9).tolist()
    [5, 2, 2]
    """
    sharing = np.ones(len(sizes), bool)
    while True:
        quota = given.copy()
        quota[sharing] = share_quota(sizes[sharing], k - int(given[~sharing].sum()))
        if (quota >= given).all():
            return quota
        sharing &= quota >= given
