"""The estimators: right values, weights and repetition, sparse rows, tools of scikit-learn, the guard, the width curve."""

import pickle

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from scipy.sparse import csc_matrix, csr_array
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits, load_iris, make_friedman1
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler

import nc_fast
from nc_fast.sklearn import NeuronClassifier, NeuronFeatures, NeuronRegressor

ESTIMATORS = [NeuronClassifier, NeuronRegressor, NeuronFeatures]
SMALL = {"n_neurons": 12, "pool": 4, "random_state": 0}


@pytest.fixture(scope="module")
def digits():
    X, y = load_digits(return_X_y=True)
    return train_test_split(X.astype(np.float32), y, random_state=0, stratify=y)


@pytest.fixture(scope="module")
def iris():
    return load_iris(return_X_y=True)


def outputs(fitted, X):
    return next(getattr(fitted, name)(X) for name in ("decision_function", "predict", "transform") if hasattr(fitted, name))


def test_digits_are_told_apart(digits):
    X, X_test, y, y_test = digits
    scores = {how: NeuronClassifier(60, pool=20, select=how, random_state=0).fit(X, y).score(X_test, y_test) for how in ("none", "pursuit")}
    assert scores["none"] + 0.01 < scores["pursuit"]
    assert scores["pursuit"] > 0.95


def test_a_function_is_learned(rng):
    X, y = make_friedman1(1200, random_state=0)
    model = NeuronRegressor(100, random_state=0).fit(X[:800], y[:800])
    assert model.score(X[800:], y[800:]) > 0.9
    assert model.n_pursued_ > 20


@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_predictions_are_those_of_the_weights(Estimator, iris):
    """The layer takes X as it comes, standardization included."""
    X, y = iris
    fitted = Estimator(**SMALL).fit(X, y)
    Z = np.maximum(X @ fitted.weights_ + fitted.bias_, 0)
    if Estimator is NeuronFeatures:
        np.testing.assert_allclose(fitted.transform(X), Z, atol=1e-10)
    else:
        found = Z @ fitted.head_ + fitted.intercept_
        np.testing.assert_allclose(outputs(fitted, X).reshape(len(X), -1), found, atol=1e-10)


def test_several_outputs_count_the_same(rng):
    """An output in other units gets the same neurons, and its predictions are in its units."""
    X = rng.normal(size=(300, 4))
    Y = np.column_stack([np.abs(X[:, 0]), np.abs(X[:, 1])])
    plain, scaled = (NeuronRegressor(**SMALL).fit(X, Y * units) for units in ([1.0, 1.0], [1.0, 1e4]))
    np.testing.assert_allclose(plain.weights_, scaled.weights_)
    np.testing.assert_allclose(plain.predict(X) * [1.0, 1e4], scaled.predict(X), rtol=1e-6)
    assert plain.predict(X).shape == (300, 2)


def test_several_labels(rng):
    X = rng.normal(size=(400, 4))
    Y = (X[:, :3] > 0).astype(int)
    model = NeuronClassifier(60, random_state=0).fit(X[:300], Y[:300])
    assert (model.predict(X[300:]) == Y[300:]).mean() > 0.9
    assert model.decision_function(X).shape == (400, 3)


@pytest.mark.parametrize("select", ["none", "pursuit", "campaign", "auto"])
def test_weights_are_repetitions(select, iris, rng):
    X, y = iris
    weight = rng.integers(0, 4, len(X))
    order = rng.permutation(weight.sum())
    options = {**SMALL, "select": select, "class_weight": "balanced"}
    weighted = NeuronClassifier(**options).fit(X, y, weight)
    repeated = NeuronClassifier(**options).fit(X.repeat(weight, axis=0)[order], y.repeat(weight)[order])
    np.testing.assert_allclose(weighted.decision_function(X), repeated.decision_function(X), atol=1e-8)


def test_weights_count_in_the_head(rng):
    X, y, weight = rng.normal(size=(80, 3)), rng.normal(size=80), rng.random(80)
    model = NeuronRegressor(12, random_state=0, ridge=0.1, select="none").fit(X, y, weight)
    Z = NeuronFeatures(12, random_state=0, select="none").fit(X, y, weight).transform(X)
    head = nc_fast.ridge_head(Z, y, ridge=0.1, sample_weight=weight)
    np.testing.assert_allclose(model.predict(X), (Z @ head.weights + head.intercept)[:, 0], atol=1e-8)


def test_the_same_row_with_several_targets(rng):
    """Rows that are alike count as one, with the weighted mean of their targets: leaving one out leaves all out."""
    X, y, weight = rng.normal(size=(40, 3)), rng.normal(size=(40, 2)), rng.uniform(1, 3, size=(40, 2))
    apart = NeuronRegressor(12, random_state=0).fit(np.repeat(X, 2, axis=0), y.ravel(), weight.ravel())
    merged = NeuronRegressor(12, random_state=0).fit(X, np.average(y, axis=1, weights=weight), weight.sum(axis=1))
    np.testing.assert_allclose(apart.ridge_, merged.ridge_)


def test_class_weights_move_the_border(rng):
    X = rng.normal(size=(300, 2)) + 0.5 * (np.arange(300) % 2)[:, None]
    shares = [
        NeuronClassifier(**SMALL, class_weight=weight).fit(X, np.arange(300) % 2).predict(X).mean()
        for weight in ({0: 9, 1: 1}, None, {0: 1, 1: 9})
    ]
    assert shares[0] < 0.3 < shares[1] < 0.7 < shares[2]


@pytest.mark.parametrize("Estimator", ESTIMATORS)
@pytest.mark.parametrize("form", [csr_array, csc_matrix])
def test_sparse_equals_dense(Estimator, form, rng):
    X = np.where(rng.random((120, 30)) < 0.2, rng.normal(size=(120, 30)), 0.0)
    y = (X[:, 0] + X[:, 1] > 0).astype(int)
    dense, sparse = (Estimator(**SMALL, standardize=False).fit(data, y) for data in (X, form(X)))
    np.testing.assert_allclose(outputs(dense, X), outputs(sparse, form(X)), atol=1e-10)
    scaled = Estimator(**SMALL).fit(form(X), y)
    np.testing.assert_allclose(outputs(scaled, X), outputs(scaled, form(X)), atol=1e-10)


@pytest.mark.parametrize("Estimator", [NeuronClassifier, NeuronRegressor])
def test_sparse_rows_are_dense_a_block_at_a_time(Estimator, rng, monkeypatch):
    X = csr_array(np.where(rng.random((300, 20)) < 0.2, 1.0, 0.0))
    monkeypatch.setattr("nc_fast.sklearn.rows.block_rows", lambda n_features: 64)
    densified = []
    whole = csr_array.toarray
    monkeypatch.setattr(csr_array, "toarray", lambda self, *args, **kwargs: densified.append(self.shape[0]) or whole(self, *args, **kwargs))
    Estimator(**SMALL, max_samples=50).fit(X, np.arange(300) % 2).predict(X)
    assert max(densified) <= max(64, 300)
    assert densified.count(300) <= 1  # of no more than 5000 rows are the errors that choose the ridge


@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_float32_stays(Estimator, iris):
    X, y = iris
    fitted = Estimator(**SMALL).fit(X.astype(np.float32), y)
    assert {getattr(fitted, name).dtype for name in ("weights_", "bias_", "head_", "intercept_") if hasattr(fitted, name)} == {
        np.dtype("f4")
    }
    if Estimator is not NeuronClassifier:
        assert outputs(fitted, X.astype(np.float32)).dtype == np.float32


def test_pipelines_and_searches(iris):
    X, y = iris
    search = GridSearchCV(make_pipeline(MinMaxScaler(), NeuronClassifier(**SMALL)), {"neuronclassifier__n_neurons": [2, 12]}, cv=3)
    assert search.fit(X, y).best_params_ == {"neuronclassifier__n_neurons": 12}
    assert search.best_score_ > 0.9
    assert CalibratedClassifierCV(NeuronClassifier(**SMALL), cv=3).fit(X, y).predict_proba(X).shape == (150, 3)
    assert not hasattr(search.best_estimator_, "predict_proba")


@pytest.mark.parametrize("Estimator", ESTIMATORS)
def test_copies(Estimator, iris):
    X, y = iris
    fitted = Estimator(**SMALL).fit(X, y)
    np.testing.assert_array_equal(outputs(pickle.loads(pickle.dumps(fitted)), X), outputs(fitted, X))
    np.testing.assert_array_equal(outputs(clone(fitted).fit(X, y), X), outputs(fitted, X))


def test_names_and_frames(iris):
    pandas = pytest.importorskip("pandas")
    X, y = iris
    frame = pandas.DataFrame(X, columns=["a", "b", "c", "d"])
    fitted = NeuronFeatures(**SMALL).set_output(transform="pandas").fit(frame, y)
    assert fitted.get_feature_names_out().tolist() == [f"neuronfeatures{number}" for number in range(12)]
    found = fitted.transform(frame)
    assert list(found.columns) == fitted.get_feature_names_out().tolist()
    np.testing.assert_array_equal(found.to_numpy(), NeuronFeatures(**SMALL).fit(X, y).transform(X))
    assert fitted.feature_names_in_.tolist() == ["a", "b", "c", "d"]


def test_candidates_of_ones_own(iris):
    X, y = iris
    seen = {}

    def own(X, y, M, rng):
        seen.update(X=X, y=y, M=M)
        return rng.normal(size=(X.shape[1], M)), np.zeros(M)

    NeuronClassifier(**SMALL, candidates=own).fit(X, y)
    assert seen["M"] == 48
    assert seen["y"].tolist() != sorted(seen["y"])  # rows are in an order of their own
    np.testing.assert_allclose(seen["X"].std(axis=0), 1, atol=0.02)


def test_the_guard_pursues_few_on_noise(rng):
    X, y = rng.normal(size=(200, 10)), rng.integers(0, 2, 200)
    model = NeuronClassifier(60, random_state=0).fit(X, y)
    assert model.n_pursued_ <= 5


def test_the_guard_pursues_many_where_it_is_right(digits):
    X, _, y, _ = digits
    assert NeuronClassifier(30, random_state=0).fit(X, y).n_pursued_ >= 20


@pytest.mark.parametrize(("N", "passes"), [(100, 13), (600, 5), (2400, 2), (5000, 1), (30_000, 1)])
def test_what_the_guard_costs(N, passes, rng, monkeypatch):
    """Pursuits of one fit, with 3000 samples to pick on: folds where all are, none beyond the one that is needed where others are."""
    import nc_fast.sklearn.guard as guard

    calls = []
    pursued = guard.pursued
    monkeypatch.setattr(guard, "pursued", lambda pool, sample, count: calls.append(count) or pursued(pool, sample, count))
    X = rng.normal(size=(N, 3))
    NeuronClassifier(6, pool=2, max_samples=3000, random_state=0).fit(X, (np.abs(X[:, 0]) > 0.7).astype(int))
    assert len(calls) == passes


@pytest.mark.parametrize("select", ["none", "pursuit", "campaign", "auto"])
def test_width_curve(select, digits):
    X, X_test, y, y_test = digits
    model = NeuronClassifier(40, pool=8, select=select, random_state=0, width_curve=True).fit(X, y)
    curve = model.width_curve_
    assert curve.shape == (41,)
    assert 0.05 < curve[0] < 0.15  # the most frequent class
    assert curve[10] < curve[20] < curve[40]
    assert abs(curve[40] - model.score(X_test, y_test)) < 0.03


def test_width_curve_on_rows_that_picked_nothing(digits):
    X, X_test, y, y_test = digits
    model = NeuronClassifier(40, pool=8, max_samples=500, random_state=0, width_curve=True).fit(X, y)
    assert abs(model.width_curve_[40] - model.score(X_test, y_test)) < 0.04


def test_width_curve_of_a_regressor():
    X, y = make_friedman1(600, random_state=0)
    curve = NeuronRegressor(40, pool=8, random_state=0, width_curve=True).fit(X, y).width_curve_
    assert abs(curve[0]) < 0.02
    assert curve[40] > 0.8


def test_curve_is_that_of_heads_fitted_one_by_one(rng):
    from nc_fast.gram import add_samples
    from nc_fast.sklearn.head import scores_by_width
    from nc_fast.sklearn.selection import gram_of

    Z, T, weight = rng.normal(size=(60, 7)), rng.normal(size=(60, 2)), rng.random(60)
    Z[:, 3] = 1.0  # a dead neuron
    gram = gram_of(add_samples(None, Z, T, weight, exact=True), Z, T, weight)
    found = scores_by_width(gram, 0.1, Z, T, weight, lambda outputs, T, weight: float(((outputs - T) ** 2).sum()))
    for j in range(1, 8):
        head = nc_fast.ridge_head(Z[:, :j], T, ridge=0.1, sample_weight=weight)
        np.testing.assert_allclose(found[j], ((Z[:, :j] @ head.weights + head.intercept - T) ** 2).sum(), rtol=1e-8)
