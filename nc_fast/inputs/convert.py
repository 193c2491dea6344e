"""What users pass as arrays: tensors as they are, everything else as NumPy makes an array of it; DataFrames column by column.

Errors have the form of :mod:`nc_fast.inputs.checks`. pandas and polars are known by what they offer, never imported.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

from nc_fast.inputs.arrays import Array, array_namespace, is_tensor
from nc_fast.runtime.caller import warn_caller


def as_array(name: str, value: object) -> Array:
    """Return an array or tensor as it is, without autograd; everything else as NumPy makes an array of it."""
    if is_tensor(value):
        if str(value.layout) != "torch.strided":
            raise TypeError(f"{name}: expected a dense tensor, got layout {value.layout}")
        if value.device.type == "meta":
            raise ValueError(f"{name}: expected a tensor with values, got one on the meta device")
        if not _numpy_has(dtype := str(value.dtype).removeprefix("torch.")):
            raise TypeError(f"{name}: expected a dtype that NumPy has too, or bfloat16, got {dtype}")
        return value.detach().resolve_conj().resolve_neg()  # kernels read the memory, where a lazy minus is not
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected an array without a mask, got a masked array; fill it first")
    try:
        array = np.asarray(value)
    except ValueError:  # ragged nested lists
        raise TypeError(f"{name}: expected an array, got {type(value).__name__} that is not rectangular") from None
    if array.dtype == object and not array.ndim:
        hint = f"; make it dense: {name}.toarray()" if hasattr(value, "toarray") else ""
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}{hint}")
    return array


def as_numbers(name: str, value: Any) -> Array:
    """Return a matrix like :func:`as_array`; a DataFrame's columns of numbers and booleans are brought to one dtype."""
    array = as_array(name, value)
    if array.dtype == object and array.size and hasattr(value, "columns"):
        names = getattr(value, "column_names", value.columns)  # pyarrow's columns have no names, its tables do
        columns = value.items() if hasattr(value, "items") else zip(names, value, strict=True)  # pandas; polars, pyarrow
        array = np.column_stack([_column(name, label, column) for label, column in columns])
    return array


def warn_of_other_order(X_name: str, X: Any, y_name: str, y: Any) -> None:
    """Warn where samples and labels of pandas have the same rows by their index, in different orders: they are taken as they stand."""
    rows: Any = getattr(X, "index", None)
    labels: Any = getattr(y, "index", None)
    if not (hasattr(rows, "is_unique") and hasattr(labels, "is_unique")) or len(rows) != len(labels) or rows.equals(labels):
        return
    if rows.is_unique and labels.is_unique and rows.isin(labels).all():
        warn_caller(
            f"{y_name}: expected the order of {X_name}, got an index of the same rows in another; rows are taken as they stand: "
            f"{y_name}.loc[{X_name}.index] has the order of {X_name}, {y_name}.to_numpy() has no index and no warning"
        )


def booleans_as_numbers(array: Array) -> Array:
    """Return booleans as 0 and 1, the same memory as uint8; anything else as it is."""
    if dtype_name(array) != "bool":
        return array
    return array.view(array_namespace(array).uint8)


def missing(values: list[Any]) -> list[int]:
    """Return the places of those that stand for no value: None, NaN, NaT and pandas.NA."""
    nothing = (None, getattr(sys.modules.get("pandas"), "NA", None))
    return [place for place, value in enumerate(values) if any(value is one for one in nothing) or _differs_from_itself(value)]


def is_integer(array: Array) -> bool:
    """Whether the array's dtype is an integer (booleans are not)."""
    return dtype_name(array).startswith(("int", "uint"))


def dtype_name(array: Array) -> str:
    """Return the dtype's name, such as "float32", without the library's."""
    return str(array.dtype).removeprefix("torch.") if is_tensor(array) else str(array.dtype.name)


def _column(name: str, label: object, column: Any) -> np.ndarray:
    """Return a column of a DataFrame as numbers."""
    values = np.asarray(column)
    if values.dtype == object:
        if places := missing(values.tolist()):
            raise ValueError(f"{name}: expected finite numbers, got {len(places)} missing in column {label!r}, the first at {places[0]}")
        values = as_array(f"{name}, column {label!r}", values.tolist())
    if values.dtype.kind not in "biuf" or values.ndim != 1:
        raise TypeError(f"{name}: expected columns of numbers, got column {label!r} of {getattr(column, 'dtype', values.dtype)}")
    return np.asarray(booleans_as_numbers(values))


def _differs_from_itself(value: Any) -> bool:
    """Whether a value is NaN or NaT."""
    try:
        return bool(value != value)
    except (TypeError, ValueError, RuntimeError, ArithmeticError):  # arrays, tensors and signalling decimals among them
        return False


def _numpy_has(dtype: str) -> bool:
    try:
        np.dtype(dtype)
    except TypeError:
        return dtype == "bfloat16"
    return True
