"""Labels as they come: missing, of several kinds, in matrices, as floats. Right, or one error that names the cause."""

import datetime

import numpy as np
import pytest
from label_cases import FUNCTIONS, LABELS_ONLY, TARGETS_TOO, N, X, Y, campaign, class_moments, name_of, pursuit, same

import nc_fast
from nc_fast.inputs import checks

functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
labels_only = pytest.mark.parametrize("function", LABELS_ONLY, ids=lambda function: function.__name__)
targets_too = pytest.mark.parametrize("function", TARGETS_TOO, ids=lambda function: function.__name__)
WORDS = np.array(["ant", "bee", "cat"])[Y]
NOTHING = np.arange(N) % 24 == 5


def series(values, dtype):
    pd = pytest.importorskip("pandas")
    return pd.Series(values, dtype=dtype)


def holes(values, nothing):
    return [nothing if gone else value for value, gone in zip(values.tolist(), NOTHING, strict=True)]


MISSING = {
    "list of None": lambda: holes(WORDS, None),
    "list of NaN and words": lambda: holes(WORDS, float("nan")),
    "list of None and numbers": lambda: holes(Y, None),
    "list of bools": lambda: holes(Y > 0, None),
    "tuple": lambda: tuple(holes(Y, np.nan)),
    "object of NaN": lambda: np.array(holes(WORDS, np.nan), object),
    "object of None": lambda: np.array(holes(Y, None), object),
    "object of NaT": lambda: np.array(holes(WORDS, np.datetime64("NaT")), object),
    "object of pandas.NA": lambda: np.array(holes(WORDS, pytest.importorskip("pandas").NA), object),
    "str": lambda: series(holes(WORDS, None), "str"),
    "string": lambda: series(holes(WORDS, None), "string"),
    "object Series": lambda: series(holes(WORDS, None), object),
    "category": lambda: series(holes(WORDS, None), "category"),
    "category of a frame": lambda: series(holes(WORDS, None), "category").to_frame(),
    "boolean": lambda: series(holes(Y > 0, None), "boolean"),
}
MISSING_NUMBERS = {
    "Int64": lambda: series(holes(Y, None), "Int64"),
    "numbers with a hole": lambda: series(holes(Y, None), None),
    "category of numbers": lambda: series(holes(Y, None), "Int64").astype("category"),
    "float": lambda: np.where(NOTHING, np.nan, Y),
    "float (N, 1)": lambda: np.where(NOTHING, np.nan, Y)[:, None],
}
MISSING_TIMES = {
    "datetime": lambda: series(holes(np.array("2020-01-01", "datetime64[s]") + Y, None), "datetime64[s]"),
    "NumPy's NaT": lambda: np.where(NOTHING, np.datetime64("NaT"), np.array("2020-01-01", "datetime64[s]") + Y),
}


@functions
@pytest.mark.parametrize("kind", MISSING)
def test_missing_labels_are_counted_and_placed(function, kind):
    with pytest.raises(ValueError, match=rf"^{name_of(function)}: expected a label for every sample, got 10 missing, the first at \(?5"):
        function(X, MISSING[kind]())


@labels_only
@pytest.mark.parametrize("kind", [*MISSING_NUMBERS, *MISSING_TIMES])
def test_missing_numbers_and_times_are_too(function, kind):
    y = {**MISSING_NUMBERS, **MISSING_TIMES}[kind]()
    with pytest.raises(ValueError, match=r"^y: expected a label for every sample, got 10 missing, the first at \(?5"):
        function(X, y)


@pytest.mark.parametrize("function", [class_moments, pursuit])
def test_missing_labels_in_a_batch(function):
    stream = [(X[:100], WORDS[:100].tolist()), (X[100:], [None, *WORDS[101:].tolist()])]
    with pytest.raises(ValueError, match=r"^batch 1: y: expected a label for every sample, got 1 missing, the first at 0"):
        function(stream, None)


@functions
@pytest.mark.parametrize(
    ("pair", "kinds"),
    [
        ((1, "1"), "integers and strings"),
        ((True, 2), "booleans and integers"),
        ((b"a", "a"), "bytes and strings"),
        ((0.5, "a"), "floats and strings"),
    ],
)
@pytest.mark.parametrize("form", ["list", "tuple", "object", "Series"])
def test_labels_of_several_kinds_are_refused(function, pair, kinds, form):
    y = [pair[0], pair[1], pair[1]] * (N // 3)
    make = {"list": list, "tuple": tuple, "object": lambda y: np.array(y, object), "Series": lambda y: series(y, object)}[form]
    with pytest.raises(ValueError, match=rf"^{name_of(function)}: expected labels of one kind, got {kinds}"):
        function(X, make(y))


@functions
@pytest.mark.parametrize(
    "form",
    [
        "list", "tuple", "(N, 1)", "object", "object (N, 1)", "bool", "uint8", "big-endian", "str", "category", "Int64", "frame",
        "boolean", "NumPy's own strings",
    ],
)  # fmt: skip
def test_labels_in_any_container_are_the_same_labels(function, form):
    values = Y > 0 if form in ("bool", "boolean") else WORDS if form in ("str", "category", "NumPy's own strings") else Y
    y = {
        "list": lambda: values.tolist(),
        "tuple": lambda: tuple(values.tolist()),
        "(N, 1)": lambda: values[:, None],
        "object": lambda: values.astype(object),
        "object (N, 1)": lambda: values.astype(object)[:, None],
        "bool": lambda: values,
        "uint8": lambda: values.astype(np.uint8),
        "big-endian": lambda: values.astype(">i4"),
        "str": lambda: series(values, "str"),
        "category": lambda: series(values, "category"),
        "Int64": lambda: series(values, "Int64"),
        "frame": lambda: series(values, None).to_frame(),
        "boolean": lambda: series(values, "boolean"),
        "NumPy's own strings": lambda: values.astype(np.dtypes.StringDType()),
    }[form]()
    same(function(X, y), function(X, values))


@functions
def test_columns_of_polars(function):
    pl = pytest.importorskip("polars")
    for y in (pl.Series(WORDS.tolist()), pl.Series(WORDS.tolist(), dtype=pl.Categorical), pl.DataFrame({"kind": WORDS.tolist()})):
        same(function(X, y), function(X, WORDS))
    for values in (WORDS, Y > 0):
        with pytest.raises(ValueError, match=r": expected a label for every sample, got 10 missing, the first at 5"):
            function(X, pl.Series(holes(values, None)))
    age = np.arange(N) % 90
    frame = pl.DataFrame({"old": age > 60, "age": age, **{f"x{i}": X[:, i] for i in range(4)}})
    for found, expected in zip(function(frame, Y), function(np.column_stack([age > 60, age, X[:, :4]]), Y), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-9)  # columns may lie side by side in memory
    with pytest.raises(TypeError, match=r": expected columns of numbers, got column 'age' of String"):
        function(frame.with_columns(pl.Series("age", WORDS.tolist())), Y)


ONE_HOT = np.eye(3, dtype=int)[Y]
SOFT = np.full((N, 3), 0.25) + 0.25 * ONE_HOT
SEVERAL = np.stack([Y > 0, Y < 2], 1).astype(int)


@labels_only
@pytest.mark.parametrize(
    ("matrix", "got"),
    [
        (ONE_HOT, r"one-hot labels of shape \(240, 3\); the class numbers are y.argmax\(1\)$"),
        (ONE_HOT > 0, r"one-hot labels of shape \(240, 3\); the class numbers are y.argmax\(1\)$"),
        (ONE_HOT.astype(np.float32), r"one-hot labels of shape \(240, 3\); the class numbers are y.argmax\(1\)$"),
        (SOFT, r"soft labels of shape .*; the likeliest are y.argmax\(1\); nc_fast.pursuit takes float targets: y$"),
        (SOFT.astype(np.float16), "soft labels"),
        (
            SEVERAL,
            r"several labels a sample, of shape \(240, 2\), which are no classes; nc_fast.pursuit takes float targets: y.astype\(float\)$",
        ),
        (SEVERAL.astype(float), "several labels a sample, .*; nc_fast.pursuit takes float targets: y$"),
        (X, r"\(240, 6\); nc_fast.pursuit takes float targets: y$"),
        (np.stack([Y, Y + 7], 1), r"\(240, 2\)$"),
        (np.stack([WORDS, WORDS], 1), r"\(240, 2\)$"),
        (Y[None], r"\(1, 240\)$"),
    ],
)
def test_matrices_of_labels_are_named(function, matrix, got):
    with pytest.raises(ValueError, match=rf"^y: expected shape \(N,\) = \(240,\), got {got}"):
        function(X, matrix)


@targets_too
@pytest.mark.parametrize(
    ("matrix", "got"),
    [
        (ONE_HOT, r"one-hot labels of shape \(240, 3\); the class numbers are {y}.argmax\(1\), float targets: {y}.astype\(float\)$"),
        (ONE_HOT > 0, r"one-hot labels of shape \(240, 3\); the class numbers are {y}.argmax\(1\), float targets: {y}.astype\(float\)$"),
        (SEVERAL, r"several labels a sample, .*; float targets: {y}.astype\(float\)$"),
        (np.stack([Y, Y + 7], 1), r"\(240, 2\); float targets: {y}.astype\(float\)$"),
    ],
)
def test_where_floats_are_targets_integers_are_told_how_to_be_them(function, matrix, got):
    name = name_of(function)
    with pytest.raises(ValueError, match=rf"^{name}: expected shape \(N,\) = \(240,\), got {got.format(y=name)}"):
        function(X, matrix)
    function(X, matrix.astype(float))


@labels_only
def test_float_labels_are_told_what_to_do(function):
    with pytest.raises(TypeError, match=r"^y: expected integer.* labels, got float64 of whole numbers; cast them: y.astype\(int\)$"):
        function(X, Y * 1.0)
    with pytest.raises(TypeError, match=r"^y: .*, got float64; bin it first: numpy.digitize\(y, edges\)$"):
        function(X, Y / 2)
    with pytest.raises(TypeError, match=r"^y: .*, got datetime64\[D\]; cast them: y.astype\(str\)$"):
        function(X, np.array("2020-01-01", "datetime64[D]") + Y)
    with pytest.raises(TypeError, match=r"^y: .*, got date; cast them: "):
        function(X, [datetime.date(2020, 1, 1 + c) for c in Y])
    torch = pytest.importorskip("torch")
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(TypeError, match=r"of whole numbers; cast them: y.long\(\)$"):
            function(X, torch.from_numpy(Y).to(dtype))


def test_tensors_of_labels():
    torch = pytest.importorskip("torch")
    y = torch.from_numpy(Y)
    for form in (y[:, None], y.to(torch.int8), list(y)):
        same(campaign(X, form), campaign(X, Y))
    with pytest.raises(ValueError, match=r"one-hot labels of shape \(240, 3\); the class numbers are y.argmax\(1\)"):
        campaign(X, torch.nn.functional.one_hot(y))
    with pytest.raises(ValueError, match=r"float targets: y.double\(\)$"):
        pursuit(X, torch.from_numpy(SEVERAL))


def test_labels_of_positions_are_checked_too():
    y = np.stack([Y, Y], 1).astype(object)
    np.testing.assert_array_equal(checks.label_array("data", y, part="y"), np.stack([Y, Y], 1))
    y[3, 1] = None
    with pytest.raises(ValueError, match=r"^data: y: expected a label for every sample, got 1 missing, the first at \(3, 1\)"):
        checks.label_array("data", y, part="y")
    with pytest.raises(TypeError, match=r"^data: expected y as integer.*, got float64 of whole numbers; cast them: y.astype\(int\)"):
        checks.label_array("data", Y * 1.0, part="y")


@pytest.mark.parametrize(
    ("batch", "got"),
    [({"image": X, "label": Y}, r"dict of \['image', 'label'\]"), ((X, Y, Y), "tuple of length 3"), (X, "ndarray"), (3, "int")],
)
def test_batches_that_are_no_pairs(batch, got):
    with pytest.raises(TypeError, match=rf"^X: expected batches \(X, y\), got {got} as batch 1"):
        nc_fast.class_moments(np.ones((6, 3)), [(X, Y), batch])
