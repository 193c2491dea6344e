"""select(given=): picks that continue from neurons already there are the rest of one call that began with them."""

import warnings

import numpy as np
import pytest
from hypothesis import given as drawn
from hypothesis import settings
from hypothesis import strategies as st

import nc_fast
from nc_fast.backends.registry import BACKENDS
from nc_fast.quota import share_quota_beside
from nc_fast.testing import assert_picks_follow_rules
from nc_fast.types import Picks, Scores

KINDS = ["random", "integer", "nearly parallel", "low rank"]


def pool(rng, kind, D, M, C):
    """Random candidates of the kind named, scores of both signs with ties, some without weights, some constant."""
    W = {
        "random": rng.normal(size=(D, M)),
        "integer": rng.integers(-1, 2, size=(D, M)).astype(float),
        "nearly parallel": rng.normal(size=(D, 1)) + 1e-4 * rng.normal(size=(D, M)),
        "low rank": rng.normal(size=(D, 2)) @ rng.normal(size=(2, M)),
    }[kind]
    W[:, rng.random(M) < 0.1] = 0
    score = np.where(rng.random(M) < 0.5, rng.integers(-2, 3, M), rng.normal(size=M))
    return W, Scores(score, rng.integers(0, C, M), rng.random(M) < 0.9, np.arange(C))


def selected(*arguments, **options):
    """Select without the warnings that dead candidates fill up."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return nc_fast.select(*arguments, **options)


def begun(rng, whole, live, by_class):
    """Return (n,) bool, the first few picks of every group, never all; dead ones only after everything live."""
    group = np.where(live[whole.indices], whole.groups if by_class else 0, -1)
    first = np.zeros(len(group), bool)
    for g in np.unique(group[group >= 0]):
        first[np.flatnonzero(group == g)[: rng.integers(0, (group == g).sum() + 1)]] = True
    if first[group >= 0].all():
        dead = np.flatnonzero(group < 0)
        first[dead[: rng.integers(0, len(dead) + 1)]] = True
    first[-1] = False
    return first


def in_turns(rng, picks, groups):
    """Return picks in a random order in which those of each group keep theirs."""
    mixed = picks.copy()
    turns = rng.permutation(groups)
    for g in np.unique(groups):
        mixed[turns == g] = picks[groups == g]
    return mixed


def check_rest(rng, W, scores, n, by_class, backend):
    whole = selected(W, scores, n, by_class=by_class, backend=backend)
    live = scores.live & W.any(axis=0)
    first = begun(rng, whole, live, by_class)
    there = whole.indices[first]
    there = in_turns(rng, there, np.where(live[there], scores.group[there], -1)) if by_class else there
    rest = selected(W, scores, n - len(there), by_class=by_class, backend=backend, given=there)
    np.testing.assert_array_equal(rest.indices, whole.indices[~first])
    np.testing.assert_array_equal(rest.groups, whole.groups[~first])
    np.testing.assert_array_equal(rest.scores, whole.scores[~first])
    np.testing.assert_allclose(rest.gains, whole.gains[~first], rtol=1e-9, atol=1e-13)
    assert rest.restarts == whole.restarts


@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("D", "M", "n"), [(5, 40, 12), (3, 24, 24), (1, 7, 7), (20, 31, 17)])
def test_the_rest_of_one_call(backend, D, M, n, kind, by_class, rng):
    if backend == "gpu" and M > 7 and (D, kind) != (5, KINDS[0]):
        pytest.skip("too slow in Triton's interpreter; test_whatever_is_given_spans_its_group has every kind")
    for _ in range(1 if backend == "gpu" else 2):
        check_rest(rng, *pool(rng, kind, D, M, 3), n, by_class, backend)


@settings(max_examples=150, deadline=None)
@drawn(st.integers(0, 2**32 - 1), st.sampled_from(KINDS), st.integers(1, 8), st.integers(2, 50), st.integers(1, 4), st.booleans())
def test_the_rest_of_one_call_of_any_shape(seed, kind, D, M, C, by_class):
    rng = np.random.default_rng(seed)
    W, scores = pool(rng, kind, D, M, C)
    for name in ("reference", "cpu"):
        check_rest(rng, W, scores, int(rng.integers(1, M + 1)), by_class, name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("D", "M", "n_given", "k"), [(6, 30, 5, 9), (3, 30, 12, 12), (2, 9, 8, 1)])
def test_whatever_is_given_spans_its_group(backend, D, M, n_given, k, kind, rng):
    W, score, group = pool(rng, kind, D, M, 3)[0], rng.normal(size=M), np.arange(M) % 3
    W[:, ~W.any(axis=0)] = 1  # nothing dead
    there = rng.permutation(M)[:n_given]
    have = np.bincount(group[there], minlength=3)
    quota = share_quota_beside(np.bincount(group), have, n_given + k)
    put = BACKENDS[backend].put
    picks = BACKENDS[backend].select(put(W), put(score), put(group), put(quota), given=put(there))
    assert_picks_follow_rules(picks, W, score, group, quota, there)
    found = nc_fast.select(W, score, k, groups=group, backend=backend, given=there)
    new = ~np.isin(picks.indices, there)
    np.testing.assert_array_equal(found.indices, np.asarray(picks.indices)[new])
    np.testing.assert_array_equal(found.gains, np.asarray(picks.gains)[new])
    np.testing.assert_array_equal(np.bincount(found.groups, minlength=3), quota - have)


def test_the_comparer_rejects_picks_that_ignore_the_given(rng):
    W, score, group = rng.normal(size=(6, 30)), rng.random(30), np.zeros(30, np.int64)
    right = BACKENDS["reference"].select(W, score, group, np.array([8]), given=np.array([3, 4]))
    alone = BACKENDS["reference"].select(W, score, group, np.array([6]))
    wrong = Picks(np.append([3, 4], alone.indices), np.append(right.gains[:2], alone.gains), 0)
    out_of_turn = Picks(right.indices[[1, 0, *range(2, 8)]], right.gains, right.restarts)
    assert_picks_follow_rules(right, W, score, group, np.array([8]), np.array([3, 4]))
    for picks in (wrong, out_of_turn):
        with pytest.raises(AssertionError):
            assert_picks_follow_rules(picks, W, score, group, np.array([8]), np.array([3, 4]))


@pytest.mark.parametrize("by_class", [True, False])
def test_dead_ones_that_are_given_are_just_there(backend, by_class, rng):
    W, score, live = rng.normal(size=(5, 12)), rng.random(12), np.ones(12, bool)
    W[:, 2], live[7] = 0, False
    scores = Scores(score, np.arange(12) % 2, live, np.arange(2))
    plain = nc_fast.select(W, scores, 6, by_class=by_class, backend=backend)
    found = nc_fast.select(W, scores, 6, by_class=by_class, backend=backend, given=[7, 2])
    np.testing.assert_array_equal(found.indices, plain.indices)
    live[5] = False
    with pytest.warns(UserWarning, match="k = 10 exceeds the 9 live candidates beside the given; 1 dead ones"):
        everyone = nc_fast.select(W, scores, 10, by_class=by_class, backend=backend, given=[7, 2])
    assert everyone.indices.tolist()[-1] == 5
    assert sorted(everyone.indices.tolist()) == [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]


def test_one_in_the_span_of_those_before_it_adds_nothing(backend, rng):
    W = np.hstack([rng.normal(size=(6, 1))] * 2 + [rng.normal(size=(6, 20))])
    W[:, 1] *= -3
    once, twice = (nc_fast.select(W, np.ones(22), 4, by_class=False, backend=backend, given=given) for given in ([0], [0, 1]))
    np.testing.assert_array_equal(once.indices, twice.indices)
    assert twice.restarts == 0


def test_an_exhausted_rank_is_replayed_in_the_order_of_the_given(backend):
    W = np.array([[1.0, 0.0, 1.0, 0.0, 1.0], [0.0, 1.0, 0.0, 1.0, 0.0]])  # after 0, 1 the span is full; 2 begins a new one
    found = nc_fast.select(W, [5.0, 4.0, 3.0, 2.0, 2.5], 2, by_class=False, backend=backend, given=[0, 1, 2])
    assert found.indices.tolist() == [3, 4]
    assert found.restarts == 2


def test_more_given_than_a_window_holds(backend, rng, monkeypatch):
    if backend == "gpu":
        windows = pytest.importorskip("nc_fast.backends.gpu.windows")
        monkeypatch.setattr(windows, "SMALLEST_WINDOW", 16)
        monkeypatch.setattr(windows, "LARGEST_WINDOW", 16)
    W, score = rng.normal(size=(50, 90)), rng.random(90)
    there = rng.permutation(90)[:40]
    expected = nc_fast.select(W, score, 30, by_class=False, backend="reference", given=there)
    found = nc_fast.select(W, score, 30, by_class=False, backend=backend, given=there)
    np.testing.assert_array_equal(found.indices, expected.indices)
    assert found.restarts == expected.restarts == 1


@pytest.mark.parametrize("as_given", [list, tuple, np.uint8, np.int32, "tensor"])
def test_given_in_any_form(as_given, rng):
    W, score = rng.normal(size=(5, 20)), rng.random(20)
    expected = nc_fast.select(W, score, 6, by_class=False).indices[2:]
    there = nc_fast.select(W, score, 2, by_class=False).indices
    if as_given == "tensor":
        torch = pytest.importorskip("torch")
        W, there = torch.tensor(W), torch.tensor(there)
    else:
        there = as_given(there)
    np.testing.assert_array_equal(nc_fast.select(W, score, 4, by_class=False, given=there).indices, expected)


def test_none_given_is_no_difference(backend, rng):
    W, score = rng.normal(size=(5, 20)), rng.random(20)
    plain, none = (nc_fast.select(W, score, 6, by_class=False, backend=backend, given=given) for given in (None, []))
    np.testing.assert_array_equal(plain.indices, none.indices)


def test_a_screened_campaign_holds_for_its_own_picks(rng):
    W, y = rng.normal(size=(5, 60)), np.arange(90) % 3
    X = rng.normal(size=(90, 5)) + 2 * np.eye(3, 5)[y]
    result = nc_fast.campaign(W, X, y, 6, method="screened")
    screened = Scores(*(getattr(result.candidates, name) for name in ("score", "group", "live", "classes")), quota=np.array([2, 2, 2]))
    with pytest.raises(ValueError, match="given: expected none with scores of a screened campaign"):
        nc_fast.select(W, screened, 5, given=result.indices[:1])
