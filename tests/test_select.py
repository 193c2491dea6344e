import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nc_fast
from nc_fast._dispatch import BACKENDS
from nc_fast.testing import CASES, assert_picks_follow_rules
from nc_fast.types import Picks


def scores_like(kind, rng, n):
    return {
        "spread": rng.random(n) + 0.1,
        "mixed signs": rng.normal(size=n),
        "negative": -rng.random(n) - 0.1,
        "equal": np.full(n, 0.25),
        "zero": np.zeros(n),
    }[kind]


@pytest.mark.parametrize("kind", ["spread", "mixed signs", "negative", "equal", "zero"])
@pytest.mark.parametrize("case", CASES[:-1], ids=lambda case: case.name)
def test_every_backend_follows_the_rules(backend, case, kind, rng):
    W, score = rng.normal(size=(case.D, case.M)), scores_like(kind, rng, case.M)
    groups = rng.integers(0, case.C, size=case.M)
    found = nc_fast.select(W, score, case.k, groups=groups, backend=backend)
    labels, pool = np.unique(groups, return_inverse=True)
    quota = nc_fast.share_quota(np.bincount(pool), case.k)
    assert_picks_follow_rules(Picks(found.indices, found.gains, found.restarts), W, score, pool, quota)
    np.testing.assert_array_equal(found.groups, groups[found.indices])
    np.testing.assert_array_equal(found.scores, score[found.indices])
    assert len(labels) == len(quota)


def test_duplicates_parallel_and_negated_candidates_tie_to_the_lowest_index(backend, rng):
    unique = rng.normal(size=(6, 5))
    W = np.hstack([unique, unique * 3, -unique, unique])
    found = nc_fast.select(W, np.ones(20), 5, by_class=False, backend=backend)
    assert sorted(found.indices.tolist()) == [0, 1, 2, 3, 4]
    assert found.restarts == 0


def test_rank_exhausted_restarts(backend):
    W = np.array([[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]])
    found = nc_fast.select(W, [4.0, 3.0, 2.0, 1.0], 4, by_class=False, backend=backend)
    assert found.indices.tolist() == [0, 1, 2, 3]
    assert found.restarts == 3
    np.testing.assert_allclose(found.gains, [4.0, 3.0, 2.0, 1.0])


def test_a_ratio_that_falls_to_nothing_bit_by_bit_counts_as_0(backend):
    W = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 5e-6], [0.0, 0.0, 5e-7]])  # the last keeps 5e-6 of its length, then 5e-7
    found = nc_fast.select(W, [4.0, 3.0, 1.0], 3, by_class=False, backend=backend)
    assert found.restarts == 1
    np.testing.assert_allclose(found.gains, [4.0, 3.0, 1.0])


def test_a_negative_score_prefers_what_points_elsewhere(backend):
    W = np.array([[1.0, 1.0, 0.0], [0.0, 0.1, 1.0]])
    assert nc_fast.select(W, [-1.0, -1.0, -1.5], 2, by_class=False, backend=backend).indices.tolist() == [0, 2]


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1.0, 1e15, 1e30])
def test_the_scale_of_the_weights_changes_nothing(backend, scale, rng):
    W, score = rng.normal(size=(8, 30)), rng.random(30)
    plain = nc_fast.select(W, score, 8, by_class=False, backend=backend)
    scaled = nc_fast.select(W * scale, score, 8, by_class=False, backend=backend)
    np.testing.assert_array_equal(scaled.indices, plain.indices)


def test_dead_candidates_wait_for_the_live_and_fill_by_lowest_index(backend, rng):
    W = rng.normal(size=(4, 6))
    W[:, [0, 3]] = 0
    score = np.array([9.0, 0.1, 0.2, 9.0, 0.3, 0.4])
    live = nc_fast.select(W, score, 4, by_class=False, backend=backend)
    assert sorted(live.indices.tolist()) == [1, 2, 4, 5]
    with pytest.warns(UserWarning, match="k = 6 exceeds the 4 live candidates; 2 dead ones"):
        everyone = nc_fast.select(W, score, 6, by_class=False, backend=backend)
    assert everyone.indices.tolist() == [*live.indices.tolist(), 0, 3]
    assert everyone.gains.tolist()[4:] == [0.0, 0.0]


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 40), st.integers(1, 3), st.booleans())
def test_integer_weights_full_of_ties(seed, n_features, n_candidates, n_groups, equal):
    rng = np.random.default_rng(seed)
    W = rng.integers(-1, 2, size=(n_features, n_candidates)).astype(np.float32)
    score = np.full(n_candidates, 0.5) if equal else rng.integers(-2, 3, size=n_candidates).astype(float)
    pool = rng.integers(-1, n_groups, size=n_candidates)
    sizes = np.bincount(pool[pool >= 0], minlength=n_groups)
    quota = nc_fast.share_quota(sizes, int(rng.integers(0, sizes.sum() + 1)))
    for name in ("reference", "cpu"):
        picks = BACKENDS[name].select(W, score, pool, quota)
        assert_picks_follow_rules(picks, W, score, pool, quota)


def test_progress_ends_at_k(backend, rng):
    seen = []
    nc_fast.select(
        rng.normal(size=(5, 50)),
        rng.random(50),
        20,
        by_class=False,
        backend=backend,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen
    assert seen[-1] == (20, 20)
