"""The shared comparers reject a deliberately wrong backend: a check that cannot fail is worth nothing."""

from dataclasses import replace
from types import SimpleNamespace

import fuzz_oracles
import numpy as np
import pytest

import nc_fast
from nc_fast.backends.cpu import kernels, tiles
from nc_fast.backends.cpu import moments as cpu_moments
from nc_fast.backends.reference.select import select
from nc_fast.merging import chan_merge
from nc_fast.testing import CASES, assert_moments_match, assert_picks_follow_rules
from nc_fast.types import Picks

CASE = CASES[1]


def one_mean_off(moments):
    mean = moments.mean.copy()
    mean[2, 7] += 1e-4 * abs(mean).max()
    return replace(moments, mean=mean)


def one_count_off(moments):
    count = moments.count.copy()
    count[0] += 1
    return replace(moments, count=count)


def m2_divided_too_early(moments):
    return replace(moments, m2=moments.m2 * (1 - 1e-4))


def classes_swapped(moments):
    return replace(moments, mean=moments.mean[::-1], m2=moments.m2[::-1], count=moments.count[::-1])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sabotage", [one_mean_off, one_count_off, m2_divided_too_early, classes_swapped])
def test_wrong_moments(sabotage, dtype, rng):
    W, X, y = CASE.draw(rng, dtype)
    right = nc_fast.class_moments(W, X, y)
    assert_moments_match(right, W, X, y)
    with pytest.raises(AssertionError):
        assert_moments_match(sabotage(right), W, X, y)


def merge_without_the_shift(a, b):
    count, mean, _ = chan_merge(a, b)
    return count, mean, a[2] + b[2]


def merge_that_keeps_the_old_mean(a, b):
    count, _, m2 = chan_merge(a, b)
    return count, np.where((a[0] == 0)[:, None], b[1], a[1]), m2


def runs_without_the_shift(runs, starts, run_mean, run_m2, count, mean, m2):
    before = m2[runs]
    kernels.merge_runs(runs, starts, run_mean, run_m2, count, mean, m2)
    m2[runs] = before + run_m2


def runs_that_keep_the_old_mean(runs, starts, run_mean, run_m2, count, mean, m2):
    before = np.where((count == 0)[:, None], np.nan, mean)
    kernels.merge_runs(runs, starts, run_mean, run_m2, count, mean, m2)
    mean[...] = np.where(np.isnan(before), mean, before)


@pytest.mark.parametrize(
    "merge", [merge_without_the_shift, merge_that_keeps_the_old_mean, runs_without_the_shift, runs_that_keep_the_old_mean]
)
def test_a_wrong_merge(merge, monkeypatch, rng):
    W, X, y = CASES[-1].draw(rng)
    if merge.__name__.startswith("runs"):  # tiles to a chunk
        monkeypatch.setattr(cpu_moments, "kernels", SimpleNamespace(tile_moments=kernels.tile_moments, merge_runs=merge))
    else:  # chunks to the whole
        monkeypatch.setattr(tiles, "CHUNK_ROWS", 500)
        assert_moments_match(nc_fast.class_moments(W, X, y, backend="cpu"), W, X, y)
        monkeypatch.setattr(cpu_moments, "chan_merge", merge)
    with pytest.raises(AssertionError):
        assert_moments_match(nc_fast.class_moments(W, X, y, backend="cpu"), W, X, y)


def picks_of(indices, gains, restarts=0):
    return Picks(np.array(indices), np.array(gains, float), restarts)


W = np.array([[1.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]])
SCORE = np.array([0.5, 0.5, 0.4, 0.1])
POOL = np.zeros(4, np.int64)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (picks_of([1, 2], [0.5, 0.4]), "lowest index among ties"),
        (picks_of([0, 0], [0.5, 0.4]), "picked twice"),
        (picks_of([0, 3], [0.5, 0.1 * 0.5**0.5]), "was to be had"),
        (picks_of([0, 2], [0.5, 0.3]), "gain of pick 1"),
        (picks_of([0, 2], [0.5, 0.4], restarts=1), "expected 0 restarts"),
        (picks_of([0], [0.5]), "expected 2 picks"),
    ],
)
def test_wrong_picks(wrong, why):
    right = select(W, SCORE, POOL, np.array([2]))
    assert right.indices.tolist() == [0, 2]
    assert_picks_follow_rules(right, W, SCORE, POOL, np.array([2]))
    with pytest.raises(AssertionError, match=why):
        assert_picks_follow_rules(wrong, W, SCORE, POOL, np.array([2]))


def test_a_pick_from_another_group():
    with pytest.raises(AssertionError, match="not in group"):
        assert_picks_follow_rules(picks_of([2], [0.4]), W, SCORE, np.array([0, 0, 1, 1]), np.array([1]))


def test_the_oracles_of_the_fuzz_tests_see_errors(rng):
    W, X, y = CASES[1].draw(rng)
    y %= 3
    found = nc_fast.campaign(W, X, y, 12)
    moments = nc_fast.class_moments(W, X, y)
    given = fuzz_oracles.Activations(W, X, 0.0, "relu", "cpu")
    fuzz_oracles.assert_moments(moments, given, y)
    fuzz_oracles.assert_scores(found.candidates, moments, 0.5)
    fuzz_oracles.assert_selection(found, W, found.candidates, 12, True)
    assert given.fits

    def moved(array, position, by):
        array = array.copy()
        array[position] += by
        return array

    turned = found.indices.copy()
    turned[[0, 1]] = turned[[1, 0]]
    for call in (
        lambda: fuzz_oracles.assert_moments(replace(moments, mean=moved(moments.mean, (1, 7), 1e-10)), given, y),
        lambda: fuzz_oracles.assert_moments(replace(moments, m2=moved(moments.m2, (1, 7), 1e-6)), given, y),
        lambda: fuzz_oracles.assert_scores(replace(found.candidates, score=moved(found.candidates.score, 5, 1e-7)), moments, 0.5),
        lambda: fuzz_oracles.assert_scores(replace(found.candidates, group=moved(found.candidates.group, 5, 1)), moments, 0.5),
        lambda: fuzz_oracles.assert_selection(replace(found, gains=moved(found.gains, 3, 1e-5)), W, found.candidates, 12, True),
        lambda: fuzz_oracles.assert_selection(
            replace(found, indices=turned, scores=found.candidates.score[turned]), W, found.candidates, 12, True
        ),
        lambda: fuzz_oracles.assert_selection(replace(found, restarts=1), W, found.candidates, 12, True),
        lambda: fuzz_oracles.assert_documented(ValueError("it went wrong")),
        lambda: fuzz_oracles.assert_documented(RuntimeError("k: expected 1, got 2")),
    ):
        with pytest.raises(AssertionError):
            call()
