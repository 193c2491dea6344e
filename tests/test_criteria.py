import numpy as np
import pytest

import nc_fast
from nc_fast.criteria import apply_criterion
from nc_fast.types import ClassMoments


def moments_of(mean, m2, count):
    mean = np.asarray(mean, float)
    return ClassMoments(np.arange(len(mean)), np.asarray(count), mean, np.asarray(m2, float))


def test_scores_are_the_formula(rng):
    y = rng.integers(0, 3, size=80)
    z = rng.normal(size=(80, 5)) + y[:, None] * np.array([0.0, 0.5, 1.0, 2.0, 3.0])
    parts = [z[y == c] for c in range(3)]
    moments = moments_of([p.mean(0) for p in parts], [((p - p.mean(0)) ** 2).sum(0) for p in parts], [len(p) for p in parts])
    unit = lambda v: v / np.linalg.norm(v)  # noqa: E731
    within = np.mean([p.std(0, ddof=1) for p in parts], axis=0)
    between = np.std([p.mean(0) for p in parts], axis=0, ddof=1)
    spread = z.std(0, ddof=1)
    np.testing.assert_allclose(moments.within(), within)
    np.testing.assert_allclose(moments.between(), between)
    np.testing.assert_allclose(moments.spread(), spread)
    for alpha in (0.0, 0.3, 1.0):
        expected = alpha * unit(spread) + (1 - alpha) * unit(unit(between) - unit(within))
        np.testing.assert_allclose(nc_fast.ib_scores(moments, alpha=alpha).score, expected)


@pytest.mark.parametrize("C", [3, 5, 7])
def test_equal_class_means_differ_by_exactly_nothing(C, rng):
    moments = moments_of(np.tile(rng.random(20), (C, 1)), rng.random((C, 20)), [4] * C)
    assert not moments.between().any()
    within = moments.within() / np.linalg.norm(moments.within())
    np.testing.assert_allclose(nc_fast.ib_scores(moments, alpha=0.0).score, -within)  # not a unit vector of rounding errors


def test_group_is_the_highest_mean_and_the_first_on_ties():
    moments = moments_of([[1, 5, 2], [3, 5, 2], [2, 1, 2]], np.ones((3, 3)), [4, 4, 4])
    assert nc_fast.ib_scores(moments).group.tolist() == [1, 0, 0]


def test_a_zero_norm_is_left_at_zero():
    scores = nc_fast.ib_scores(moments_of(np.zeros((2, 3)), np.zeros((2, 3)), [2, 2]))
    assert scores.score.tolist() == [0, 0, 0]
    assert scores.live.tolist() == [False, False, False]


def test_any_spread_is_alive_and_none_is_dead():
    moments = moments_of([[0, 1], [0, 1]], [[1e-9, 0], [0, 0]], [5, 5])
    assert nc_fast.ib_scores(moments).live.tolist() == [True, False]
    assert apply_criterion(lambda m: (m.mean[0], m.mean.argmax(0)), moments).live.tolist() == [True, False]


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_extreme_scales_neither_overflow_nor_vanish(scale):
    plain = moments_of([[1, 2], [3, 7]], [[1, 1], [1, 1]], [5, 5])
    scaled = ClassMoments(plain.classes, plain.count, plain.mean * scale, plain.m2 * 0)
    found = nc_fast.ib_scores(scaled, alpha=0.0)
    assert np.isfinite(found.score).all()
    assert abs(found.score).max() > 0.1


def test_one_class_is_enough_for_alpha_one():
    moments = moments_of([[1.0, 2.0]], [[3.0, 4.0]], [5])
    assert nc_fast.ib_scores(moments, alpha=1.0).group.tolist() == [0, 0]
    with pytest.raises(ValueError, match="at least two classes when alpha < 1, got 1"):
        nc_fast.ib_scores(moments, alpha=0.9)


def fisher(moments):
    return moments.between() ** 2 / moments.within() ** 2, moments.mean.argmax(0)


def test_a_criterion_of_ones_own(rng, backend):
    W, X, y = rng.normal(size=(4, 30)), rng.normal(size=(90, 4)), np.arange(90) % 3
    result = nc_fast.campaign(W, X, y, 6, criterion=fisher, activation="tanh", backend=backend)
    moments = nc_fast.class_moments(W, X, y, activation="tanh")
    np.testing.assert_allclose(result.candidates.score, fisher(moments)[0], rtol=1e-6)
    assert result.groups.tolist() == sorted(result.groups.tolist())


@pytest.mark.parametrize(
    ("criterion", "error", "message"),
    [
        (lambda m: m.mean[0], TypeError, "callable returning"),
        (lambda m: (m.mean, m.mean.argmax(0)), ValueError, "score of shape"),
        (lambda m: (m.mean[0], m.mean[0]), TypeError, "group as integers"),
        (lambda m: (m.mean[0], m.mean.argmax(0) + 2), ValueError, r"group in \[0, 3\)"),
        (lambda m: (m.mean[0] * np.nan, m.mean.argmax(0)), ValueError, "score: expected finite numbers, got nan"),
        ("fisher", TypeError, "criterion: expected a callable"),
    ],
)
def test_a_criterion_that_does_not_fit(criterion, error, message, rng):
    with pytest.raises(error, match=message):
        nc_fast.campaign(rng.normal(size=(4, 8)), rng.normal(size=(30, 4)), np.arange(30) % 3, 2, criterion=criterion)
