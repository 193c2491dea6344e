"""Every error a user can meet, in one form: ``name: expected ..., got ...``. TypeError for kinds, ValueError for values.

Checks read what they are given, return it in the form the next stage wants, and change nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from difflib import get_close_matches
from math import inf, isfinite
from numbers import Real
from typing import Any

import numpy as np

from nc_fast.activations import ACTIVATIONS, near_activation
from nc_fast.inputs.arrays import Array, array_namespace, as_numpy, is_tensor, take_rows
from nc_fast.inputs.callables import name_instead
from nc_fast.inputs.convert import as_array as as_array
from nc_fast.inputs.convert import as_numbers, booleans_as_numbers
from nc_fast.inputs.convert import dtype_name as dtype_name
from nc_fast.inputs.convert import is_integer as is_integer
from nc_fast.inputs.label_checks import ignore_index as ignore_index
from nc_fast.inputs.label_checks import label_array as label_array
from nc_fast.inputs.label_checks import label_values as label_values
from nc_fast.inputs.orientation import ROWS, refuse_rows_as_neurons
from nc_fast.runtime.threads import ordered_map, thread_count

# Elements looked at at once, never a copy of full size: so many that handing them to a thread, or launching a kernel, is hidden.
FINITE_CHECK_ELEMENTS = {"cpu": 1 << 20, "gpu": 1 << 26}
BLOCKS_A_THREAD = 2  # at least: fewer are read before a thread has started
HALF_NAMES = ("float16", "bfloat16")


def choice(name: str, value: object, options: Iterable[str], near: Callable[[str], str | None] | None = None) -> str:
    """Return ``value`` if it is one of the options; else say which exist and which is nearest, in any case or by ``near``."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value

    def nearest(text: str) -> str | None:
        cased = {option.lower(): option for option in options}
        return next((cased[found] for found in get_close_matches(text.lower(), cased, n=1)), None)

    meant = (near or nearest)(value) if isinstance(value, str) else None
    hint = f"; did you mean {meant!r}?" if meant else ""
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def activation(value: object) -> str | Callable[[Any], Any]:
    """Check an activation: a name in the table or a callable, which a class is not: it would make objects of blocks."""
    if isinstance(value, type):
        raise TypeError(f"activation: expected a name or a function, got the class {value.__name__}{name_instead(value)}")
    return value if callable(value) else choice("activation", value, ACTIVATIONS, near_activation)


def weights(name: str, value: object, *, half: bool) -> Array:
    """Check a (D, M) matrix of candidate neurons; ``half``: whether 16-bit floats are taken."""
    W = float_matrix(name, value, half=half, form="(D, M)")
    finite(name, W)
    return W


def float_matrix(name: str, value: object, *, half: bool, form: str) -> Array:
    """Check all of a matrix of floats but its numbers."""
    array = as_numbers(name, value)
    _float_kind(name, dtype_name(array), half)
    _matrix(name, array.shape, form)
    _non_empty(name, array.shape)
    return array


def sample_matrix(name: str, value: object, W: Array | None, *, half: bool) -> Array:
    """Check all of an (N, D) matrix of samples but its numbers; booleans are returned as 0 and 1."""
    if W is not None:
        _same_place(name, value, W)
    X = booleans_as_numbers(as_numbers(name, value))
    sample_form(name, X.shape, dtype_name(X), W, half=half)
    return X


def sample_form(name: str, shape: Sequence[int], dtype: str, W: Array | None, *, half: bool) -> None:
    """Check what is known of (N, D) samples, floating, integer or boolean, where the checked weights W, if any, can meet them."""
    if not dtype.startswith(("int", "uint", "bool")):
        _float_kind(name, dtype, half, also=" or integer")
    _matrix(name, shape, "(N, D)")
    if W is not None and shape[1] != W.shape[0]:
        refuse_rows_as_neurons("W", W, n_features=shape[1])
        raise ValueError(f"{name}: expected shape (N, D) = (N, {W.shape[0]}) to match W, got {tuple(shape)}")
    _non_empty(name, shape)


def biases(value: object, W: Array) -> np.ndarray:
    """Check a bias: a number, or (M,) numbers; return (M,) float64."""
    bias = as_numpy(as_array("bias", value))
    if bias.dtype.kind not in "fiu":
        got = repr(value) if isinstance(value, str) else bias.dtype
        raise TypeError(f"bias: expected a number, (M,) numbers or 'center', got {got}")
    if bias.shape not in ((), (W.shape[1],)):
        hint = f"; {ROWS.format(name='W')}" if bias.shape == tuple(W.shape[:1]) else ""
        raise ValueError(f"bias: expected a number or shape (M,) = ({W.shape[1]},), got {bias.shape}{hint}")
    finite("bias", bias)
    return np.full(W.shape[1], bias, dtype=np.float64)


def integer(name: str, value: object) -> int:
    """Check a whole number."""
    try:
        return operator.index(None if isinstance(value, (bool, np.bool_)) else value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {value!r}") from None


def whole(name: str, value: object, least: int) -> int:
    """Check a whole number of at least ``least``."""
    number = integer(name, value)
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {number}")
    return number


def count(name: str, value: object, most: int, of: str = "M", rows: int = 0) -> int:
    """Check a whole number from 1 to ``most``, the candidates or others; ``rows`` there may be of the candidates' W."""
    number = integer(name, value)
    if not 1 <= number <= most:
        hint = f"; {ROWS.format(name='W')}" if most < number <= rows else ""
        raise ValueError(f"{name}: expected 1 <= {name} <= {of} = {most}, got {number}{hint}")
    return number


def kind(name: str, value: object, expected: type) -> None:
    """Check that an argument is of a class of this library's."""
    if not isinstance(value, expected):
        raise TypeError(f"{name}: expected {expected.__name__}, got {type(value).__name__}")


def flag(name: str, value: object) -> bool:
    """Check a bool."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {value!r}")
    return bool(value)


def progress(value: object) -> Any:
    """Check what progress is reported to."""
    if not (isinstance(value, bool) or callable(value)):
        raise TypeError(f"progress: expected True, False or a callable, got {type(value).__name__}")
    return value


def alpha(value: object) -> float:
    """Check the weight of I(X;Z)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"alpha: expected a number in [0, 1], got {value!r}")
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {value!r}")
    return number


def non_negative(name: str, value: object) -> float:
    """Check a finite number of at least 0."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"{name}: expected a number >= 0, got {value!r}")
    number = float(value)
    if not 0 <= number < inf:
        raise ValueError(f"{name}: expected a finite number >= 0, got {value!r}")
    return number


def generator(name: str, value: object) -> np.random.Generator:
    """Check a source of random numbers: a generator, or the seed of one."""
    if isinstance(value, np.random.Generator):
        return value
    try:
        return np.random.default_rng(whole(name, value, 0))
    except TypeError:
        raise TypeError(f"{name}: expected an integer or a numpy.random.Generator, got {value!r}") from None


def enough_classes(weight: float, classes: np.ndarray) -> None:
    """Check that there are two classes where label information counts."""
    if weight < 1 and len(classes) < 2:
        raise ValueError(f"y: expected at least two classes when alpha < 1, got {len(classes)}: {classes.tolist()}")


def no_overflow(largest: float, names: str = "W, X, bias") -> None:
    """Check the largest magnitude among sums over activations: those of finite W, X and bias may overflow."""
    if not isfinite(largest):
        raise ValueError(f"{names}: expected activations with finite moments, got an overflow ({largest}); scale them down")


def finite_rows(name: str, array: Array, rows: np.ndarray | None) -> Array:
    """Return some rows of an array, None standing for all, after checking that they are finite."""
    chosen = take_rows(array, rows)
    finite(name, chosen, rows)
    return chosen


def finite(name: str, array: Array, places: Sequence[int] | np.ndarray | None = None) -> None:
    """Raise at the first NaN or infinity, naming its position; reads block by block, copies nothing of full size.

    ``places`` are those of the array's rows in what they are taken from.
    """
    if is_integer(array):
        return
    xp = array_namespace(array)
    elements = FINITE_CHECK_ELEMENTS["gpu" if is_tensor(array) and array.device.type != "cpu" else "cpu"]
    rows = max(1, elements // max(1, int(np.prod(array.shape[1:]))))

    def suspicious(first: int, _: object) -> bool:
        """Whether a block may hold what is not finite: a sum is finite only if every term is."""
        with np.errstate(over="ignore", invalid="ignore"):
            return not bool(xp.isfinite((array[first : first + rows] if array.ndim else array).sum()))

    firsts = range(0, array.shape[0] if array.ndim else 1, rows)
    threads = 1 if is_tensor(array) else max(1, min(thread_count(), len(firsts) // BLOCKS_A_THREAD))
    for first, found in zip(firsts, ordered_map(suspicious, firsts, threads), strict=True):
        block = array[first : first + rows] if array.ndim else array
        if found and not xp.isfinite(block).all():  # a sum that overflowed is looked at term by term
            position = np.argwhere(~np.isfinite(as_numpy(block)))[0]
            value = as_numpy(block)[tuple(position)]
            if array.ndim:
                position[0] = (position[0] + first) if places is None else places[position[0] + first]
            raise ValueError(f"{name}: expected finite numbers, got {value} at {tuple(position.tolist())}")


def _same_place(name: str, array: object, W: Array) -> None:
    """Samples may stay in host memory when the weights are on a GPU; nothing else may be apart."""
    place, expected = (str(a.device) if is_tensor(a) else "cpu" for a in (array, W))
    if place not in ("cpu", expected):
        raise ValueError(f"{name}: expected on the device of W, {expected}, or in host memory, got {place}")


def _float_kind(name: str, dtype: str, half: bool, also: str = "") -> None:
    if dtype in ("float32", "float64") or (half and dtype in HALF_NAMES):
        return
    hint = "; 16-bit floats need backend='gpu', or cast them" if dtype in HALF_NAMES else ""
    hint = f"; cast them: {name}.astype(float)" if dtype == "object" else hint  # such as to_numpy() of a frame with several dtypes
    raise TypeError(f"{name}: expected float32 or float64{also}, got {dtype}{hint}")


def _matrix(name: str, shape: Sequence[int], expected: str) -> None:
    if len(shape) != 2:
        raise ValueError(f"{name}: expected shape {expected}, got {tuple(shape)}")


def _non_empty(name: str, shape: Sequence[int]) -> None:
    if 0 in shape:
        raise ValueError(f"{name}: expected at least one row and one column, got shape {tuple(shape)}")
