"""scikit-learn's own checks of its conventions, all of them, with no exception listed."""

import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.utils.estimator_checks import parametrize_with_checks

from nc_fast.sklearn import NeuronClassifier, NeuronFeatures, NeuronRegressor


@parametrize_with_checks(  # narrower than by default, and as they come: the defaults pass too, in minutes
    [
        NeuronFeatures(30, pool=5),
        NeuronClassifier(30, pool=5),
        NeuronRegressor(30, pool=5),
        NeuronFeatures(30, pool=5, select="none", standardize=False),
        NeuronClassifier(30, pool=5, select="pursuit", candidates="gaussian", class_weight="balanced"),
        NeuronClassifier(30, pool=5, select="campaign"),
        NeuronRegressor(30, pool=5, select="pursuit", ridge=0.01),
    ]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
