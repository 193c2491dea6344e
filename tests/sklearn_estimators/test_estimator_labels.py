"""Labels of the estimators that stand for no class, that are missing, or of several kinds."""

import enum

import numpy as np
import pytest

pytest.importorskip("sklearn", minversion="1.6")

from sklearn.base import clone
from sklearn.datasets import load_iris

from nc_fast.sklearn import NeuronClassifier, NeuronFeatures, NeuronRegressor

X, Y = load_iris(return_X_y=True)
GONE = np.arange(len(Y)) % 4 == 0
WORDS = np.array(["ant", "bee", "cat"], object)[Y]
ESTIMATORS = [NeuronClassifier, NeuronFeatures]


@pytest.mark.parametrize("Estimator", ESTIMATORS)
@pytest.mark.parametrize(
    ("y", "label", "value"),
    [(Y, -100, [-100]), (Y, -1, -1), (Y.astype(np.uint8), 255, (255, 254)), (WORDS, "", ""), (WORDS.astype(str), "none", "none")],
)
@pytest.mark.parametrize("sparse", [False, True])
def test_such_samples_are_left_out_with_their_weights(Estimator, y, label, value, sparse):
    given = pytest.importorskip("scipy.sparse").csr_matrix(X) if sparse else X
    weight = np.random.default_rng(0).random(len(Y))
    model = clone(Estimator(10, random_state=0, ignore_index=value))
    model.fit(given, np.where(GONE, label, y), sample_weight=weight)
    expected = Estimator(10, random_state=0).fit(given[~GONE], y[~GONE], sample_weight=weight[~GONE])
    np.testing.assert_array_equal(model.weights_, expected.weights_)
    if Estimator is NeuronClassifier:
        assert model.classes_.tolist() == expected.classes_.tolist()
        np.testing.assert_array_equal(model.head_, expected.head_)
    else:
        assert model.fit_transform(given, np.where(GONE, label, y)).shape == (150, 10)


@pytest.mark.parametrize("y", [Y, Y.astype(float), Y.tolist()])
def test_the_default_says_what_it_leaves_out(y):
    marked = np.where(GONE, -100, y)
    marked = marked.tolist() if isinstance(y, list) else marked
    with pytest.warns(UserWarning, match="^y: left out 38 of 150 samples, labelled -100; "):
        assert NeuronClassifier(10, random_state=0).fit(X, marked).classes_.tolist() == [0, 1, 2]
    kept = NeuronClassifier(10, random_state=0, ignore_index=None).fit(X, marked)
    assert kept.classes_.tolist() == [-100, 0, 1, 2]
    with pytest.raises(ValueError, match=r"^y: expected labels other than ignore_index = -100"):
        NeuronClassifier(10).fit(X, np.full(150, -100))


def test_targets_of_a_regressor_are_all_kept():
    y = np.where(GONE, -100.0, X[:, 0])
    assert NeuronRegressor(10, random_state=0).fit(X, y).predict(X).mean() < -20  # a quarter is -100
    assert "ignore_index" not in NeuronRegressor().get_params()


@pytest.mark.parametrize("Estimator", ESTIMATORS)
@pytest.mark.parametrize("nothing", [None, np.nan, "pandas.NA"])
@pytest.mark.parametrize("form", ["list", "object", "str", "category"])
def test_missing_labels_are_named(Estimator, nothing, form):
    pd = pytest.importorskip("pandas")
    nothing = pd.NA if nothing == "pandas.NA" else nothing
    y = [nothing if n in (3, 8) else label for n, label in enumerate(WORDS)]
    y = y if form == "list" else np.array(y, object) if form == "object" else pd.Series(y, dtype=form)
    with pytest.raises(ValueError, match=r"^y: expected a label for every sample, got 2 missing, the first at 3"):
        Estimator(10).fit(X, y)


@pytest.mark.parametrize("Estimator", ESTIMATORS)
@pytest.mark.parametrize("form", [list, lambda y: np.array(y, object)])
def test_labels_of_several_kinds_are_refused(Estimator, form):
    with pytest.raises(ValueError, match=r"^y: expected labels of one kind, got integers and strings"):
        Estimator(10).fit(X, form([1, "1", 2] * 50))


def test_a_frame_of_nullable_and_boolean_columns():
    pd = pytest.importorskip("pandas")
    size = pd.Series(np.arange(150) % 7, dtype="Int64")
    frame = pd.DataFrame({"size": size, "large": pd.Series(X[:, 2] > 4, dtype="boolean"), "wide": X[:, 3] > 1, "length": X[:, 2]})
    model = NeuronClassifier(10, random_state=0).fit(frame, Y)
    np.testing.assert_array_equal(model.weights_, NeuronClassifier(10, random_state=0).fit(frame.astype(float), Y).weights_)


class Word(str, enum.Enum):  # NumPy takes "Word.ANT", cut to three characters: one class
    ANT, BEE, CAT = "ant", "bee", "cat"


def test_members_of_an_enum_of_strings_are_strings():
    X, codes = np.random.default_rng(0).normal(size=(60, 4)), np.arange(60) % 3
    fitted = NeuronClassifier(5, random_state=0).fit(X, [list(Word)[code] for code in codes])
    assert fitted.classes_.tolist() == ["ant", "bee", "cat"]
    assert (fitted.predict(X) == NeuronClassifier(5, random_state=0).fit(X, np.array(["ant", "bee", "cat"])[codes]).predict(X)).all()
