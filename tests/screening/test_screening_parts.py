"""What screening rests on: the surrogate, the score's weights, tails of errors, thresholds."""

import numpy as np
import pytest
from screening_cases import gaussian, safe_problem

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.runtime.threads import Stop
from nc_fast.screening import scoring, surrogates
from nc_fast.screening.paths import Path
from nc_fast.screening.tail import Tail, regress

CLASSES = np.arange(5)


@pytest.mark.parametrize("activation", [*ACTIVATIONS, np.cos])
def test_the_mixture_is_right_for_normal_data(activation, rng):
    X, y = gaussian(rng, 20_000, 12)
    W, bias = rng.normal(size=(12, 200)).astype(np.float32) / 4, rng.normal(size=200)
    exact = nc_fast.class_moments(W, X, y, bias=bias, activation=activation)
    found = surrogates.fit_mixture(X, y, CLASSES, np.float32, rng).moments(W, bias, activation)
    scale = np.sqrt(exact.m2 / exact.count[:, None]) + 1e-9
    usual = scale > 0.1  # far in a flat part of the activation the noise of 4000 samples is all there is
    assert np.sqrt(np.mean(((found.mean - exact.mean) / scale)[usual] ** 2)) < 0.01
    assert np.sqrt(np.mean(found.m2[usual] / exact.m2[usual] - 1) ** 2) < 0.05
    np.testing.assert_array_equal(found.count, exact.count)


@pytest.mark.parametrize("activation", ["identity", "relu", "leaky_relu"])
def test_closed_forms(activation):
    mean, deviation = np.array([-3.0, -0.5, 0.0, 0.7, 40.0, -40.0, 2.0, -2.0]), np.array([1.0, 2.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.0])
    z = np.linspace(-12, 12, 400_001)
    density = np.exp(-0.5 * z * z)
    values = ACTIVATIONS[activation](mean[:, None] + deviation[:, None] * z)
    expected = (values * density).sum(axis=1) / density.sum()
    variance = ((values - expected[:, None]) ** 2 * density).sum(axis=1) / density.sum()
    found = surrogates.activated(mean, deviation**2, activation)
    np.testing.assert_allclose(found[0], expected, atol=3e-7)  # the distribution function is good to 7.5e-8, times |mean| here
    np.testing.assert_allclose(found[1], variance, atol=2e-6)


def test_stratified_rows_keep_small_classes(rng):
    codes = np.repeat([0, 1, 2], [5000, 3, 997])
    rows = surrogates.stratified_rows(codes, 3, 600, rng)
    assert len(np.unique(rows)) == len(rows)
    assert (np.bincount(codes[rows]) == [500, 3, 100]).all()


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_weights_give_the_criterion(alpha):
    moments = nc_fast.class_moments(*safe_problem())
    measured = scoring.measures(moments)
    weight = scoring.weights(scoring.products(measured).sum(axis=1), alpha)
    np.testing.assert_allclose(weight @ measured, nc_fast.ib_scores(moments, alpha=alpha).score, atol=1e-12)


def test_totals_are_within_their_error(rng):
    W, X, y = safe_problem()
    exact = scoring.measures(nc_fast.class_moments(W, X, y))
    guess = exact * (1 + 0.1 * rng.normal(size=exact.shape)) + 0.05
    truth = scoring.products(exact).sum(axis=1)
    rest = np.ones(W.shape[1], bool)
    rest[:300] = False
    off = []
    for _ in range(60):
        audit = rng.choice(np.flatnonzero(rest), 400, replace=False)
        found = scoring.estimate_totals(exact, guess, rest, audit)
        off.append((found.value - truth) / np.sqrt(np.diag(found.covariance)))
    assert np.abs(np.mean(off, axis=0)).max() < 0.6
    assert 0.7 < np.std(off) < 1.3


@pytest.mark.parametrize("n", [300, 3000])
def test_tails_are_not_too_light(n, rng):
    normal, heavy = [], []
    for _ in range(40):
        normal.append(Tail.of(rng.normal(size=n)).exceeds(np.array([0.0, 3.0, 4.0])))
        heavy.append(Tail.of(rng.standard_t(3, size=n)).exceeds(np.array([10.0])))
    assert (np.mean(normal, axis=0) > [0.45, 1.3e-3, 3e-5]).all()
    assert np.mean(normal, axis=0)[1] < 6e-3
    assert np.mean(heavy) > 0.5 * 1.06e-3
    tail = Tail.of(rng.normal(size=n))
    for probability in (0.5, 0.1, 0.01, 0.001):
        assert tail.exceeds(np.array([tail.quantile(probability)]))[0] == pytest.approx(probability, rel=0.3)


def test_regression_finds_bias_and_scale(rng):
    x = rng.uniform(1, 3, size=4000)
    target = 2 + x + 0.1 * x * rng.normal(size=4000)
    known = np.arange(2000)
    prediction, scale = regress(np.stack([np.ones(4000), x]), target[known], known)
    errors = (target - prediction)[2000:] / scale[2000:]
    assert abs(errors.mean()) < 0.1
    assert np.corrcoef(scale, x)[0, 1] > 0.99


@pytest.mark.parametrize("D", [24, 3])
def test_thresholds_are_where_a_candidate_gets_in(D, rng):
    """Raised just above its threshold a candidate left out is picked, just below it is not; D = 3 has restarts."""
    W, score = rng.normal(size=(D, 200)), rng.uniform(0.5, 1, size=200)
    before = nc_fast.select(W, score, 8, by_class=False)
    path = Path.of(8, before.indices, before.gains, W[:, before.indices])
    assert len(path.bases) == before.restarts + 1
    left = np.setdiff1d(np.arange(200), before.indices)[::10]
    for j, threshold in zip(left, path.thresholds(left, lambda columns: W[:, columns], Stop()), strict=True):
        for factor, inside in ((1.0001, True), (0.9999, False)):
            moved = score.copy()
            moved[j] = threshold * factor
            assert (j in nc_fast.select(W, moved, 8, by_class=False).indices) == inside
