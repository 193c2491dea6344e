import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nc_fast
from nc_fast.backends.reference.select import Span, unit_columns
from nc_fast.backends.registry import BACKENDS
from nc_fast.testing import CASES, assert_picks_follow_rules
from nc_fast.tolerances import RANK_TOLERANCE
from nc_fast.types import Picks, Scores


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


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e-15, 1.0, 1e15, 1e30, 1e200])
def test_the_scale_of_the_weights_changes_nothing(backend, scale, rng):
    W, score = rng.normal(size=(8, 30)), rng.random(30)
    plain = nc_fast.select(W, score, 8, by_class=False, backend=backend)
    scaled = nc_fast.select(W * scale, score, 8, by_class=False, backend=backend)
    np.testing.assert_array_equal(scaled.indices, plain.indices)


def test_each_column_may_have_a_scale_of_its_own(backend, rng):
    W, score = rng.normal(size=(8, 30)), rng.random(30)
    plain = nc_fast.select(W, score, 8, by_class=False, backend=backend)
    scaled = nc_fast.select(W * 10.0 ** rng.integers(-200, 200, 30), score, 8, by_class=False, backend=backend)
    np.testing.assert_array_equal(scaled.indices, plain.indices)


def test_a_ratio_of_exactly_the_tolerance_counts_as_0():
    near = 1e-6 / np.sqrt(1 - 1e-12) * (1 + np.arange(-40, 40) * 2.0**-53)
    slope = next(a for a in near if unit_columns(np.array([[1.0], [a]]))[1, 0] == RANK_TOLERANCE)
    W = np.array([[1.0, 1.0], [0.0, slope]])
    assert nc_fast.select(W, [2.0, 1.0], 2, by_class=False, backend="reference").restarts == 1


def test_the_references_basis_stays_orthonormal(rng):
    span = Span(rng.normal(size=(30, 1)) + 1e-5 * rng.normal(size=(30, 12)))
    for member in range(12):
        span.add(member)
    np.testing.assert_allclose(span._basis.T @ span._basis, np.eye(12), atol=4e-16)


def test_no_picks_at_all():
    picks = BACKENDS["reference"].select(np.eye(2), np.ones(2), np.zeros(2, np.int64), np.zeros(1, np.int64))
    assert (len(picks.indices), picks.indices.dtype, picks.gains.dtype) == (0, np.int64, np.float64)


def test_the_whole_pool_at_once_leaves_the_groups_of_the_scores_aside(backend, rng):
    W, score, live = rng.normal(size=(6, 12)), rng.random(12) + 1, np.ones(12, bool)
    scores = Scores(score, np.arange(12) % 3, live, np.array(["a", "b", "c"]))
    whole = nc_fast.select(W, scores, 6, by_class=False, backend=backend)
    np.testing.assert_array_equal(whole.indices, nc_fast.select(W, score, 6, by_class=False, backend=backend).indices)
    assert whole.groups.tolist() == scores.classes[scores.group[whole.indices]].tolist()
    assert whole.groups.tolist() != sorted(whole.groups.tolist())


def test_the_warning_points_at_the_caller(rng):
    with pytest.warns(UserWarning, match="dead ones") as caught:
        nc_fast.select(np.array([[1.0, 0.0]]), np.ones(2), 2, by_class=False)
    assert caught[0].filename == __file__


def test_dead_candidates_wait_for_the_live_and_fill_by_lowest_index(backend, rng):
    W = rng.normal(size=(4, 6))
    W[:, [0, 3]] = 0
    score = np.array([9.0, 0.1, 0.2, 9.0, 0.3, 0.4])
    live = nc_fast.select(W, score, 4, by_class=False, backend=backend)
    assert sorted(live.indices.tolist()) == [1, 2, 4, 5]
    whole = "2 dead ones (zero weights, or the same activation on every sample) fill up, lowest index first"
    with pytest.warns(UserWarning, match=f"^k = 6 exceeds the 4 live candidates; {re.escape(whole)}$"):
        everyone = nc_fast.select(W, score, 6, by_class=False, backend=backend)
    assert everyone.indices.tolist() == [*live.indices.tolist(), 0, 3]
    assert everyone.gains.tolist()[4:] == [0.0, 0.0]
    with pytest.warns(UserWarning, match="k = 5 exceeds the 4 live candidates; 1 dead ones"):
        five = nc_fast.select(W, score, 5, by_class=False, backend=backend)
    assert five.indices.tolist() == [*live.indices.tolist(), 0]


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


@pytest.mark.parametrize("labels", [np.array([3, 5]), np.array(["a", "b"])])
def test_tensors_give_tensors_and_strings_stay_in_numpy(labels, rng):
    torch = pytest.importorskip("torch")
    W, score, groups = rng.normal(size=(5, 20)), rng.random(20), labels[rng.integers(0, 2, 20)]
    expected = nc_fast.select(W, score, 6, groups=groups)
    found = nc_fast.select(torch.tensor(W), torch.tensor(score), 6, groups=groups)
    for name in ("indices", "scores", "gains", "groups"):
        kind = np.ndarray if name == "groups" and labels.dtype.kind == "U" else torch.Tensor
        assert type(getattr(found, name)) is kind, name
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


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
