"""Labels in forms that NumPy or pandas read in another way than they look: right, or an error or warning that says so."""

import decimal
import enum
import fractions
import warnings

import numpy as np
import pytest
from label_cases import FUNCTIONS, LABELS_ONLY, STREAMED, TARGETS_TOO, N, X, Y, class_moments, name_of, ridge_head, same
from stream_cases import batches

import nc_fast

functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
labels_only = pytest.mark.parametrize("function", LABELS_ONLY, ids=lambda function: function.__name__)
targets_too = pytest.mark.parametrize("function", TARGETS_TOO, ids=lambda function: function.__name__)


class Word(str, enum.Enum):  # NumPy takes "Word.ANT", cut to three characters: one class
    ANT, BEE, CAT = "ant", "bee", "cat"


class Number(enum.IntEnum):
    ANT, BEE, CAT = 0, 1, 2


class Plain(enum.Enum):
    ANT, BEE, CAT = 0, 1, 2


def of_kind(kind):
    return [list(kind)[code] for code in Y]


@functions
@pytest.mark.parametrize("make", [list, tuple, lambda labels: np.array(labels, object), lambda labels: [[label] for label in labels]])
def test_members_of_enums_that_are_strings_or_integers_are_these(function, make):
    same(function(X, make(of_kind(Word))), function(X, np.array(["ant", "bee", "cat"])[Y]))
    same(function(X, make(of_kind(Number))), function(X, Y))


@functions
@pytest.mark.parametrize("kind", [Plain, decimal.Decimal, fractions.Fraction, np.timedelta64])
@pytest.mark.parametrize("make", [list, lambda labels: np.array(labels, object)])
def test_objects_that_are_no_labels_are_named_and_can_be_cast(function, kind, make):
    y = make(of_kind(kind) if kind is Plain else [kind(int(code)) for code in Y])
    name = name_of(function)
    with pytest.raises(TypeError, match=rf"^{name}: expected .*labels, got {kind.__name__}.*; cast them: (.*)$") as caught:
        function(X, y)
    cast = str(caught.value).partition("cast them: ")[2]
    function(X, eval(cast, {name: y, "numpy": np, "str": str}))  # what the error says to write


@functions
@pytest.mark.parametrize("pair", [(-1, 2**63), (2**64, 2**64 + 1), (-(2**63) - 1, 0)])
def test_integers_that_no_dtype_holds(function, pair):
    for y in ([pair[int(code > 0)] for code in Y], np.array([pair[int(code > 0)] for code in Y], object)):
        with pytest.raises(ValueError, match=rf"^{name_of(function)}: expected labels that int64 or uint64 can hold, got {pair[0]} and"):
            function(X, y)


@targets_too
def test_missing_targets_are_counted_and_placed(function):
    y = np.where(np.arange(N) % 24 == 5, np.nan, X[:, 0])
    for given, place in ((y, "5"), (np.column_stack([X[:, 1], y]), r"\(5, 1\)")):
        with pytest.raises(
            ValueError, match=rf"^{name_of(function)}: expected a target for every sample, got 10 missing, the first at {place};"
        ):
            function(X, given)


@functions
def test_sparse_labels_are_to_be_made_dense(function):
    one_hot = pytest.importorskip("scipy.sparse").csr_matrix(np.eye(3)[Y])
    with pytest.raises(TypeError, match=rf"^{name_of(function)}: expected an array, got csr_matrix; make it dense: .*\.toarray\(\)$"):
        function(X, one_hot)


@labels_only
@pytest.mark.parametrize("form", ["list", "DataFrame"])
def test_hints_for_matrices_run_on_what_was_given(function, form):
    y = np.eye(3, dtype=int)[Y]
    given = y.tolist() if form == "list" else pytest.importorskip("pandas").DataFrame(y)
    with pytest.raises(ValueError, match=r"one-hot labels of shape \(240, 3\); the class numbers are numpy.argmax\(y, 1\)$"):
        function(X, given)
    same(function(X, np.argmax(given, 1)), function(X, Y))


@functions
@pytest.mark.parametrize(
    ("y", "value"),
    [(Y, "2"), (Y, b"2"), (Y.astype(str), 2), (Y.astype(str), -100), (Y.astype("S"), ["2", 2]), (Y > 0, 0), (Y.tolist(), np.str_("2"))],
)
def test_ignoring_labels_of_another_kind_is_an_error(function, y, value):
    with pytest.raises(TypeError, match=r"^ignore_index: expected labels like those given, (integers|strings|bytes|booleans), got "):
        function(X, y, ignore_index=value)


def test_ignoring_labels_of_another_kind_in_a_batch():
    with pytest.raises(TypeError, match=r"^batch 0: ignore_index: expected labels like those given, integers, got '2'$"):
        class_moments(batches(X, Y, 100), None, ignore_index="2")


@functions
@pytest.mark.parametrize(
    "make", [np.array, lambda v: np.array([v]), lambda v: {v}, lambda v: range(v, v + 1), "tensor", "scalar tensor", "Series"]
)
def test_all_sequences_and_scalars_of_integers_are_ignored(function, make):
    if make == "Series":
        value = pytest.importorskip("pandas").Series([2])
    elif isinstance(make, str):
        value = pytest.importorskip("torch").tensor(2 if make == "scalar tensor" else [2])
    else:
        value = make(2)
    same(function(X, Y, ignore_index=value), function(X[Y < 2], Y[Y < 2]))


@pytest.mark.parametrize("value", [np.array(2.0), np.array(True), [[2]], (label for label in [2]), float("nan")])
def test_what_is_not_ignored(value):
    with pytest.raises(TypeError, match=r"^ignore_index: expected an integer, a string, a sequence of these or None, got "):
        class_moments(X, Y, ignore_index=value)


@functions
def test_indices_in_another_order_warn(function):
    pd = pytest.importorskip("pandas")
    frame, y = pd.DataFrame(X), pd.Series(Y)
    order = np.random.default_rng(0).permutation(N)
    samples, labels = ("Z", "T") if function is ridge_head else ("X", "y")
    with pytest.warns(UserWarning, match=rf"^{labels}: expected the order of {samples}, got an index of the same rows in another") as told:
        same(function(frame, y[order]), function(frame, Y[order]))
    assert [warning.filename for warning in told] == [class_moments.__code__.co_filename]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(frame, y[order].loc[frame.index])
        function(frame, y[order].to_numpy())
        function(frame.iloc[order], y[order])
        function(frame, y.set_axis(np.arange(N) + 1))
        function(frame, y.set_axis(np.zeros(N)))
        function(X, y[order])
        function(frame, Y.tolist())


@pytest.mark.parametrize("empty", [[], (), np.zeros(0), np.zeros(0, "U1"), None])
def test_nothing_given(empty):
    W, scores = np.eye(3), [1.0, 2.0, 3.0]
    assert nc_fast.select(W, scores, 2, by_class=False, given=empty).indices.tolist() == [2, 1]


@functions
@pytest.mark.parametrize("word", ["nan", "NaT", "<NA>", "None"])
def test_strings_that_missing_labels_become_warn(function, word):
    y = np.array(["ant", "bee", "cat"])[Y]
    y = np.where(np.arange(N) % 24 == 5, word, y)
    told = rf"^{name_of(function)}: 10 labels are the string '{word}', which NumPy and astype\(str\) make of missing ones; "
    with pytest.warns(UserWarning, match=told) as said:
        kept = function(X, y)
    assert [warning.filename for warning in said] == [class_moments.__code__.co_filename]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same(function(X, y, ignore_index=None), kept)
        same(function(X, y, ignore_index=word), function(X[y != word], y[y != word]))
        function(X, np.where(y == word, "nana", y))


@pytest.mark.parametrize("function", STREAMED)
def test_such_strings_in_a_stream_warn_once(function):
    y = np.array(["ant", np.nan, "None"])[Y]
    with pytest.warns(UserWarning, match=" labels are the string '(nan|None)'") as said:
        function(list(batches(X, y, 50)), None)
    assert len(said) == 2
    assert str((Y == 1).sum()) in str(said[0].message)
