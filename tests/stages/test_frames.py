"""Samples in DataFrames and booleans: nullable columns, bool columns among numbers; errors name the column."""

import numpy as np
import pytest
from label_cases import FUNCTIONS, N, X, Y, ridge_head, same
from stream_cases import OnlySlices

pd = pytest.importorskip("pandas")
AGE, SIZE, SEX = np.random.default_rng(0).integers(0, 90, N), X[:, 0], Y > 0
MATRIX = np.column_stack([AGE, SIZE, SEX, X[:, 1:4]])
functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)


def frame(age="int64", size="float64", sex="bool"):
    columns = {"age": pd.Series(AGE, dtype=age), "size": pd.Series(SIZE, dtype=size), "sex": pd.Series(SEX, dtype=sex)}
    return pd.DataFrame({**columns, **{f"x{i}": X[:, i] for i in (1, 2, 3)}})


@functions
@pytest.mark.parametrize(
    ("age", "size", "sex"), [("int64", "float64", "bool"), ("Int64", "Float64", "boolean"), ("Int16", "float64", "bool")]
)
def test_columns_of_all_kinds_of_numbers(function, age, size, sex):
    same(function(frame(age, size, sex), Y), function(MATRIX, Y))


@functions
def test_columns_of_one_name_and_categories_of_numbers(function):
    given = frame("category")
    given.columns = ["a"] * 6
    same(function(given, Y), function(MATRIX, Y))


@functions
def test_missing_values_are_not_finite_or_named_with_their_column(function):
    name = "Z" if function is ridge_head else "X"
    given = frame("Int64")
    given.loc[[7, 9], "age"] = pd.NA
    with pytest.raises(
        ValueError, match=rf"^{name}: expected finite numbers, got (nan at \(7, 0\)|2 missing in column 'age', the first at 7)"
    ):
        function(given, Y)
    given = frame(sex="boolean")
    given.loc[[7, 9], "sex"] = pd.NA
    with pytest.raises(ValueError, match=rf"^{name}: expected finite numbers, got 2 missing in column 'sex', the first at 7"):
        function(given, Y)


@functions
@pytest.mark.parametrize("values", [np.array(["f", "m", "f"] * (N // 3)), np.array("2020-01-01", "datetime64[s]") + Y, [{}] * N])
def test_columns_of_no_numbers_are_named(function, values):
    name = "Z" if function is ridge_head else "X"
    with pytest.raises(TypeError, match=rf"^{name}: expected columns of numbers, got column 'sex' of "):
        function(frame().assign(sex=values), Y)


@pytest.mark.parametrize("function", [one for one in FUNCTIONS if one is not ridge_head], ids=lambda function: function.__name__)
@pytest.mark.parametrize("form", ["array", "memmap", "slices", "sparse", "torch", "frame", "batches"])
def test_booleans_are_0_and_1(function, form, tmp_path):
    given = X > 0.3
    expected = function(given.astype(np.uint8), Y)
    if form == "memmap":
        source = np.memmap(tmp_path / "X", bool, "w+", shape=given.shape)
        source[...] = given
    elif form == "sparse":
        source = pytest.importorskip("scipy.sparse").csr_matrix(given)
    elif form == "torch":
        source = pytest.importorskip("torch").from_numpy(given)
    else:
        source = {"array": given, "slices": OnlySlices(given), "frame": pd.DataFrame(given), "batches": [(given, Y)]}[form]
    if form == "batches" and function.__name__ in ("campaign", "pairs"):
        pytest.skip("takes no batches")
    same(function(source, None if form == "batches" else Y), expected)
    assert given.dtype == bool


@functions
@pytest.mark.parametrize("values", [[[0], [1, 2]] * (N // 2), [[0], [1]] * (N // 2)])
def test_columns_of_lists_are_named(function, values):
    name = "Z" if function is ridge_head else "X"
    with pytest.raises(TypeError, match=rf"^{name}(: expected columns of numbers, got|,) column 'sex'"):
        function(frame().assign(sex=values), Y)


@functions
def test_arrays_of_objects_are_to_be_cast(function):
    name = "Z" if function is ridge_head else "X"
    with pytest.raises(TypeError, match=rf"^{name}: expected float32 or float64.*, got object; cast them: {name}\.astype\(float\)$"):
        function(frame().to_numpy(), Y)
    function(frame().to_numpy().astype(float), Y)
