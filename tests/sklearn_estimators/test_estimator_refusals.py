"""Parameters and data that the estimators refuse: by name, before any work."""

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.datasets import load_iris

from nc_fast.sklearn import NeuronClassifier, NeuronFeatures, NeuronRegressor

ESTIMATORS = [NeuronClassifier, NeuronRegressor, NeuronFeatures]
BAD = {
    "n_neurons": [0, 2.5, "3", None, True],
    "pool": [0, 1.5, None],
    "candidates": ["pairs", None, 3],
    "select": ["pursue", None, True],
    "activation": ["rellu", None],
    "max_samples": [1, 10.0, None],
    "standardize": ["yes", None, 1],
    "ridge": ["lo", -1.0, None, np.inf],
    "width_curve": [None, 1],
    "class_weight": ["balance", 3],
    "backend": ["gpus", None],
    "ignore_index": [2.5, True, [None]],
}


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


@pytest.mark.parametrize("Estimator", ESTIMATORS)
@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_bad_parameters_are_named_before_any_work(Estimator, name, value, iris, monkeypatch):
    if name not in Estimator().get_params():
        pytest.skip("not a parameter of this one")

    def work(*_, **__):
        raise AssertionError("work began")

    monkeypatch.setattr("nc_fast.sklearn.features.distinct_rows", work)
    with pytest.raises((TypeError, ValueError), match=f"^{name}: expected"):
        Estimator(**{name: value}).fit(*iris)


@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_every_parameter_is_in_the_table_above(Estimator):
    assert set(Estimator().get_params()) <= {*BAD, "random_state"}  # which scikit-learn checks


def test_bad_data_is_named(iris):
    X, y = iris
    with pytest.raises(ValueError, match=r"^y: expected at least two classes, got 1"):
        NeuronClassifier().fit(X, y * 0)
    with pytest.raises(ValueError, match=r"^X: expected at least two different rows"):
        NeuronRegressor().fit(np.ones((5, 2)), np.arange(5.0))
    with pytest.raises(ValueError, match=r"^select: expected .* where y are no classes"):
        NeuronRegressor(select="campaign").fit(X, y)
    with pytest.raises(ValueError, match=r"^sample_weight: expected .* of at least two classes"):
        NeuronClassifier().fit(X, y, (y == 0).astype(float))
    with pytest.raises(ValueError, match=r"^width_curve: expected at least 8 different rows"):
        NeuronClassifier(3, width_curve=True).fit(X[48:53], y[48:53])
