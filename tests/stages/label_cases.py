"""The functions that take labels, called alike, for the tests of labels."""

import numpy as np

import nc_fast
from nc_fast.candidates import data_pairs

RNG = np.random.default_rng(3)
N, D, M = 240, 6, 31
Y = RNG.integers(0, 3, N)
X = RNG.normal(size=(N, D)) + 2 * np.eye(3, D)[Y]
W = RNG.normal(size=(D, M))


def campaign(X, y, **more):
    found = nc_fast.campaign(W, X, y, 6, **more)
    return [found.indices, found.scores, found.candidates.score, np.asarray(found.groups)]


def class_moments(X, y, **more):
    found = nc_fast.class_moments(W, X, y, **more)
    return [found.classes, found.count, found.mean, found.m2]


def pursuit(X, y, **more):
    found = nc_fast.pursuit(W, X, y, 4, max_samples=100, **more)
    return [found.indices, found.gains, found.head, np.array(found.classes)]


def ridge_head(X, y, **more):
    found = nc_fast.ridge_head(X, y, **more)
    return [found.weights, found.intercept, np.array(found.loo_error), np.array(found.classes)]


def pairs(X, y, **more):
    return list(data_pairs(X, y, 20, **more))


FUNCTIONS = [campaign, class_moments, pursuit, ridge_head, pairs]
STREAMED = [class_moments, pursuit, ridge_head]
LABELS_ONLY = [campaign, class_moments]
TARGETS_TOO = [pursuit, ridge_head, pairs]


def name_of(function):
    """What the function calls its labels."""
    return "T" if function is ridge_head else "y"


def same(found, expected):
    for mine, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(mine), np.asarray(theirs))
