"""Forward orthogonal least squares on the CPU: running correlations of all candidates, one product with all of them a block.

What a pick is compared by are running sums in which float32 products accumulate. Before a pick of the exact method every
candidate that their rounding leaves in the race is computed afresh in float64, so that the picks are the reference's. A
larger block picks many times among a window of the best candidates, whose Gram matrix is cheap, before it looks at all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from nc_fast.backends.cpu.columns import Columns
from nc_fast.backends.cpu.race import Race
from nc_fast.picks import PursuitPicks
from nc_fast.runtime.threads import single_threaded_blas

SMALL_POOL = 1 << 22  # activations, samples times candidates, up to which "auto" is the exact method
AUTO_SHARE, AUTO_LEAST, AUTO_MOST = 3, 2, 64  # "auto": as many picks a block as a third of those made, within these


@single_threaded_blas
def pursue(
    W: np.ndarray,
    X: np.ndarray,
    T: np.ndarray,
    k: int,
    *,
    bias: np.ndarray,
    activation: str | Callable[[Any], Any],
    precision: str = "auto",
    damping: float,
    block: int | str,
    report: Callable[[int, int], None] | None = None,
) -> PursuitPicks:
    """Pick k candidates whose activations explain the targets, each the best one beside those already picked.

    Parameters
    ----------
    W : (D, M) float32 or float64, columns are candidates.
    X : (n, D) float32, float64 or integer samples.
    T : (n, C) float64, centred targets.
    k : picks, at most M.
    bias : (M,) float64.
    activation : name in the table, or a callable on an (n, m) block.
    precision : unused on the CPU; part of the backends' common signature.
    damping : at least 0, in units of a column's squared length.
    block : picks for every look at all candidates, or "auto".
    report : called with (picks done, k) after every block.
    """
    exact = block == 1 or (block == "auto" and len(X) * W.shape[1] <= SMALL_POOL)
    race = Race(Columns(W, X, bias, activation), T, k, damping, exact=exact)
    while race.picked < k:
        size = block if isinstance(block, int) else min(max(race.picked // AUTO_SHARE, AUTO_LEAST), AUTO_MOST)
        if not exact and race.pick_in_window(size, k - race.picked):
            pass
        elif not race.pick_exactly():  # where windows are not wanted, or float32 cannot tell any more
            break
        if report and race.picked < k:
            report(race.picked, k)
    if report:
        report(k, k)
    return race.result(k)
