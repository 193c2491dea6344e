"""The tolerances of selection and pursuit, written once; csrc/tolerances.hpp has them for the C++, and the tests hold both equal."""

from __future__ import annotations

RANK_TOLERANCE = 1e-6  # a residual at most this fraction of its vector is rounding noise: the ratio counts as 0
TIE_TOLERANCE = 1e-9  # gains this close, relative to the best, are tied; the lowest index wins

EXHAUSTED = 1e-6  # pursuit: squared residual, of a column's own squared length, at which it says nothing new
NOTHING_EXPLAINED = 1e-12  # pursuit: a gain of at most this share of the targets' squares counts as 0


def least_tied(best: float) -> float:
    """Return the least gain that is tied with the best one."""
    return best - TIE_TOLERANCE * abs(best)
