"""How the moments of two sets of samples become those of both: Chan, Golub and LeVeque (1979)."""

from __future__ import annotations

from nc_fast.inputs.arrays import Array, array_namespace


def chan_merge(a: tuple[Array, Array, Array], b: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
    """Merge two sets of (count (C,), mean (C, M), m2 (C, M)); a count of 0 leaves the other side's bits as they are."""
    (count_a, mean_a, m2_a), (count_b, mean_b, m2_b) = a, b
    count = count_a + count_b
    xp = array_namespace(mean_a)
    share = (count_b / xp.asarray(count.clip(min=1), dtype=xp.float64))[:, None]  # torch divides integers in float32
    # With an empty left side its mean must not enter: mean_a + (mean_b - mean_a) is not mean_b in floating point.
    delta = mean_b - mean_a
    mean = xp.where((count_a == 0)[:, None], mean_b, mean_a + delta * share)
    return count, mean, m2_a + m2_b + delta * delta * (count_a[:, None] * share)
