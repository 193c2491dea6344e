"""Sharing k picks over groups as evenly as their sizes allow."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


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
    ValueError
        When k is negative or exceeds ``sum(sizes)``.

    Notes
    -----
    Source: the authors' program (Mao et al., CIKM 2021), its allocation of k over classes.

    Examples
    --------
    >>> share_quota([10, 3, 20], 14).tolist()
    [5, 3, 6]
    """
    sizes = np.asarray(sizes, dtype=np.int64)
    if not 0 <= k <= sizes.sum():
        raise ValueError(f"k: expected 0 <= k <= sum(sizes) = {sizes.sum()}, got {k}")
    quota = np.zeros_like(sizes)
    order = np.argsort(sizes, kind="stable")
    for position, group in enumerate(order):
        # Smallest first: once a group is larger than the equal share, so are all that follow.
        share = (k - quota.sum()) // (len(order) - position)
        if sizes[group] > share:
            rest = order[position:]
            quota[rest] = share
            left_over = k - quota.sum()
            quota[rest[len(rest) - left_over :]] += 1
            break
        quota[group] = sizes[group]
    return quota
