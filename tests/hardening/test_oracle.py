"""Selection, moments and merges on ill-conditioned numbers, against exact arithmetic."""

from collections import Counter

import numpy as np
import pytest

import nc_fast
from nc_fast.backends.reference import select as reference
from nc_fast.merging import chan_merge

pytest.importorskip("mpmath")

from oracle import POOLS, SCORES, compare, exact_merge, exact_moments, judge, merge_bound

SIZES = {"reference": (12, 30, 12), "cpu": (12, 30, 12), "gpu": (8, 20, 10)}  # D, M, k at most; the interpreter is slow


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("pool", POOLS)
def test_picks_are_those_of_exact_arithmetic(pool, dtype, backend, rng):
    verdicts = [compare(pool, scores, backend, dtype, SIZES[backend], rng) for scores in SCORES]
    for verdict in verdicts:
        assert not verdict.wrong
    steps = sum((verdict.steps for verdict in verdicts), Counter())
    assert steps["clear"] >= 0.8 * steps.total(), "too few steps at which only one pick is right"


def no_rank_tolerance(monkeypatch):
    monkeypatch.setattr(reference, "RANK_TOLERANCE", 0.0)


def no_tie_tolerance(monkeypatch):
    monkeypatch.setattr(reference, "least_tied", lambda best: best)


def projections_in_float32(monkeypatch):
    ratios = reference.Span.ratios
    monkeypatch.setattr(reference.Span, "ratios", lambda span: ratios(span).astype(np.float32).astype(float))


def ratios_by_subtraction(monkeypatch):
    def ratios(span):
        ratio = np.sqrt(np.maximum(1 - np.square(span._basis.T @ span._units).sum(axis=0), 0))
        return np.where(ratio > reference.RANK_TOLERANCE, ratio, 0)

    monkeypatch.setattr(reference.Span, "ratios", ratios)


@pytest.mark.parametrize(
    ("sabotage", "pool"),
    [
        (no_rank_tolerance, "condition 1e15"),
        (no_tie_tolerance, "exact duplicates"),
        (projections_in_float32, "near-duplicates at 1e-5"),
        (ratios_by_subtraction, "condition 1e15"),
    ],
)
def test_the_oracle_rejects(sabotage, pool, monkeypatch, rng):
    W = np.tile(rng.normal(size=(8, 6)), 5) * 1.1 ** np.arange(30) if pool == "exact duplicates" else POOLS[pool](rng, 8, 30)
    score, groups = np.full(30, 0.25), np.zeros(30, np.int64)
    assert not judge(W, score, groups, nc_fast.select(W, score, 12, groups=groups, backend="reference")).wrong
    sabotage(monkeypatch)
    assert judge(W, score, groups, nc_fast.select(W, score, 12, groups=groups, backend="reference")).wrong


@pytest.mark.parametrize(("offset", "dtype"), [(1e6, np.float64), (1e8, np.float64), (1e6, np.float32)])
def test_moments_of_offset_data_stay_inside_the_budget(offset, dtype, backend, rng):
    codes = np.arange(200) % 3
    X = (offset + rng.normal(size=(200, 3)) + codes[:, None]).astype(dtype)
    W = rng.normal(size=(3, 5)).astype(dtype)
    found = nc_fast.class_moments(W, X, codes, activation="identity", backend=backend)
    z, mean, m2 = exact_moments(W, X, codes)
    # docs/numerics.md: what plain NumPy loses in the data's precision, plus a share of the activations' scale.
    budget = abs(X @ W - z).max(axis=0) + {np.float64: 1e-12, np.float32: 2e-6}[dtype] * abs(z).max(axis=0)
    assert (abs(found.mean - mean) <= budget).all()
    count = np.bincount(codes)[:, None]
    assert (abs(found.m2 - m2) <= 4 * budget * (np.sqrt(m2 * count) + budget * count)).all()


@pytest.mark.parametrize("offset", [1e6, 1e8])
@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_exact_products_lose_nothing_to_the_offset(offset, backend, rng):
    X, codes = offset + rng.normal(size=(3000, 1)), np.zeros(3000, np.int64)  # three tiles of the CPU's
    found = nc_fast.class_moments(np.ones((1, 1)), X, codes, activation="identity", backend=backend)
    _, mean, m2 = exact_moments(np.ones((1, 1)), X, codes)
    np.testing.assert_allclose(found.mean, mean, rtol=4 * 2.0**-53)
    np.testing.assert_allclose(found.m2, m2, rtol=4 * 2.0**-53 * offset)  # E[z^2] - E[z]^2 would lose 1e-16 of its square


def parts_of(rng, n_parts, offset):
    """Counts, means and m2 of n_parts sample sets of unequal sizes, (P,) each."""
    sets = [offset + rng.normal(size=rng.integers(1, 400)) + rng.normal() for _ in range(n_parts)]
    return np.array([len(z) for z in sets]), np.array([z.mean() for z in sets]), np.array([((z - z.mean()) ** 2).sum() for z in sets])


@pytest.mark.parametrize("offset", [0.0, 1e6, 1e8])
def test_merges_in_10000_random_orders(offset, rng):
    parts = parts_of(rng, 12, offset)
    count, mean, m2 = (np.tile(part, (10_000, 1)) for part in parts)  # a row is an order: pairs drawn until one part is left
    for left in range(12, 1, -1):
        pair = rng.permuted(np.tile(np.arange(left), (10_000, 1)), axis=1)[:, :2]
        one, other = (tuple(np.take_along_axis(array, pair[:, [side]], 1) for array in (count, mean, m2)) for side in (0, 1))
        merged = chan_merge((one[0][:, 0], *one[1:]), (other[0][:, 0], *other[1:]))
        rest = np.argsort((np.arange(left) == pair[:, [0]]) | (np.arange(left) == pair[:, [1]]), axis=1, kind="stable")[:, : left - 2]
        count, mean, m2 = (
            np.hstack([np.take_along_axis(array, rest, 1), value.reshape(-1, 1)])
            for array, value in zip((count, mean, m2), merged, strict=True)
        )
    exact_mean, exact_m2 = exact_merge(*parts)
    mean_bound, m2_bound = merge_bound(parts[0], parts[1], exact_m2)
    assert len(np.unique(mean)) > 1, "the orders are not different"
    assert (count == parts[0].sum()).all()
    assert abs(mean - exact_mean).max() <= mean_bound
    assert abs(m2 - exact_m2).max() <= m2_bound


def test_a_sum_of_moments_in_random_orders(rng):
    parts = parts_of(rng, 8, 1e6)
    moments = [nc_fast.ClassMoments(np.array([0]), n[None], mu[None, None], m2[None, None]) for n, mu, m2 in zip(*parts, strict=True)]
    exact_mean, exact_m2 = exact_merge(*parts)
    mean_bound, m2_bound = merge_bound(parts[0], parts[1], exact_m2)
    for _ in range(200):
        first, *others = (moments[i] for i in rng.permutation(8))
        whole = sum(others, start=first)
        assert whole.n_samples == parts[0].sum()
        assert abs(whole.mean[0, 0] - exact_mean) <= mean_bound
        assert abs(whole.m2[0, 0] - exact_m2) <= m2_bound
