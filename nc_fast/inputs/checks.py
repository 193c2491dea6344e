"""Every error a user can meet, in one form: ``name: expected ..., got ...``. TypeError for kinds, ValueError for values.

Checks read what they are given, return it in the form the next stage wants, and change nothing.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from decimal import Decimal
from difflib import get_close_matches
from math import isfinite
from numbers import Real
from typing import Any

import numpy as np

from nc_fast.activations import ACTIVATIONS
from nc_fast.inputs.arrays import array_namespace, as_numpy, as_tensor, is_tensor, like
from nc_fast.inputs.labels import LABEL_KINDS
from nc_fast.inputs.sources import dtype_of
from nc_fast.types import Array, ClassMoments, Scores

# Elements looked at at once, never a copy of full size: on a CPU a block in L2 cache, on a GPU one that hides the launch.
FINITE_CHECK_ELEMENTS = {"cpu": 1 << 18, "gpu": 1 << 26}
HALF_NAMES = ("float16", "bfloat16")


def choice(name: str, value: object, options: Iterable[str]) -> str:
    """Return ``value`` if it is one of the options; else say which exist and which is nearest."""
    options = list(options)
    if isinstance(value, str) and value in options:
        return value
    near = get_close_matches(value, options, n=1) if isinstance(value, str) else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    kind = ValueError if isinstance(value, str) else TypeError
    raise kind(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}{hint}")


def activation(value: object) -> str | Callable[[Any], Any]:
    """Check an activation: a name in the table or a callable."""
    return value if callable(value) else choice("activation", value, ACTIVATIONS)


def elementwise(function: Callable[[Any], Any], tensors: bool) -> Callable[[np.ndarray], np.ndarray]:
    """Return a user's activation as one that takes and returns an (n, m) NumPy block and says so when it does not fit."""

    def checked(z: np.ndarray) -> np.ndarray:
        result = function(as_tensor(z)) if tensors else function(z)
        if tuple(getattr(result, "shape", ())) != z.shape:
            got = getattr(result, "shape", type(result).__name__)
            raise ValueError(f"activation: expected a callable that keeps the shape {z.shape} of its block, got {got}")
        z[...] = as_numpy(result)  # the kernels write on the block, never on an array of the user's
        return z

    return checked


def weights(name: str, value: object, *, half: bool) -> Array:
    """Check a (D, M) matrix of candidate neurons; ``half``: whether 16-bit floats are taken."""
    W = _array(name, value)
    _float_kind(name, W, half)
    _matrix(name, W, "(D, M)")
    _non_empty(name, W)
    finite(name, W)
    return W


def samples(name: str, value: object, W: Array, *, half: bool) -> Array:
    """Check an (N, D) matrix of samples: floating or integer, where the checked weights W can meet it."""
    _same_place(name, value, W)
    X = _array(name, value)
    if not is_integer(X):
        _float_kind(name, X, half, also=" or integer")
    _matrix(name, X, "(N, D)")
    if X.shape[1] != W.shape[0]:
        raise ValueError(f"{name}: expected shape (N, D) = (N, {W.shape[0]}) to match W, got {tuple(X.shape)}")
    _non_empty(name, X)
    finite(name, X)
    return X


def sliced_samples(name: str, value: Any, W: Array, *, half: bool) -> Any:
    """Check what an array-like that is read slice by slice says of itself; the numbers in it are looked at later."""
    samples(name, np.zeros((1, 1), dtype_of(value)), np.zeros((1, 1)), half=half)
    shape = tuple(value.shape)
    if len(shape) != 2:
        raise ValueError(f"{name}: expected shape (N, D), got {shape}")
    if shape[1] != W.shape[0]:
        raise ValueError(f"{name}: expected shape (N, D) = (N, {W.shape[0]}) to match W, got {shape}")
    _non_empty(name, value)
    return value


def labels(name: str, value: object, n_samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Check (N,) labels; return the sorted distinct ones (C,) and each sample's index among them (N,) int64."""
    classes, codes = np.unique(label_values(name, value, n_samples), return_inverse=True)
    return classes, codes.astype(np.int64, copy=False)


def label_values(name: str, value: object, n_samples: int) -> np.ndarray:
    """Check (N,) labels; return them as a NumPy array."""
    y = as_numpy(_array(name, value))
    if y.dtype == object:
        y = _array(name, y.tolist())
    if y.dtype.kind == "f":
        raise TypeError(f"{name}: expected integer, boolean or string labels, got {y.dtype}; bin it first: numpy.digitize(y, edges)")
    if y.dtype.kind not in LABEL_KINDS:
        raise TypeError(f"{name}: expected integer, boolean or string labels, got {y.dtype}")
    if y.shape != (n_samples,):
        raise ValueError(f"{name}: expected shape (N,) = ({n_samples},), got {y.shape}")
    return y.astype(y.dtype.newbyteorder("="), copy=False)


def biases(value: object, W: Array) -> np.ndarray:
    """Check a bias: a number, or (M,) numbers; return (M,) float64."""
    bias = as_numpy(_array("bias", value))
    if bias.dtype.kind not in "fiu":
        raise TypeError(f"bias: expected a number or (M,) numbers, got {bias.dtype}")
    if bias.shape not in ((), (W.shape[1],)):
        raise ValueError(f"bias: expected a number or shape (M,) = ({W.shape[1]},), got {bias.shape}")
    finite("bias", bias)
    return np.full(W.shape[1], bias, dtype=np.float64)


def count(name: str, value: object, most: int) -> int:
    """Check a whole number from 1 to ``most``."""
    if isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected an integer, got {type(value).__name__}") from None
    if not 1 <= number <= most:
        raise ValueError(f"{name}: expected 1 <= {name} <= M = {most}, got {number}")
    return number


def alpha(value: object) -> float:
    """Check the weight of I(X;Z)."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (Real, Decimal)):
        raise TypeError(f"alpha: expected a number in [0, 1], got {value!r}")
    number = float(value)
    if not 0 <= number <= 1:
        raise ValueError(f"alpha: expected a number in [0, 1], got {value!r}")
    return number


def enough_classes(weight: float, classes: np.ndarray) -> None:
    """Check that there are two classes where label information counts."""
    if weight < 1 and len(classes) < 2:
        raise ValueError(f"y: expected at least two classes when alpha < 1, got {len(classes)}: {classes.tolist()}")


def no_overflow(largest: float) -> None:
    """Check the largest magnitude among a criterion's terms: finite W, X and bias may give activations that overflow."""
    if not isfinite(largest):
        raise ValueError(f"W, X, bias: expected activations with finite moments, got an overflow ({largest}); scale them down")


def scored(value: object, groups: object, n_candidates: int, *, by_class: bool) -> Scores:
    """Check what select() is given as scores: a Scores, or (M,) numbers and optionally (M,) group labels."""
    if not isinstance(value, Scores):
        score = _array("scores", value)
        if as_numpy(score).dtype.kind not in "fiu":
            raise TypeError(f"scores: expected Scores or (M,) numbers, got {score.dtype}")
        if groups is None and by_class:
            raise ValueError("groups: expected (M,) labels with an array of scores when by_class=True, got None")
        if tuple(score.shape) != (n_candidates,):
            raise ValueError(f"scores: expected shape (M,) = ({n_candidates},), got {tuple(score.shape)}")
        classes, codes = labels("groups", np.zeros(n_candidates, np.int64) if groups is None else groups, n_candidates)
        xp = array_namespace(score)
        value = Scores(xp.asarray(score, dtype=xp.float64), like(score, codes), like(score, np.ones(n_candidates, bool)), classes)
    elif groups is not None:
        raise ValueError("groups: expected None when scores is a Scores, which has its own, got labels")
    if tuple(value.score.shape) != (n_candidates,):
        raise ValueError(f"scores: expected {n_candidates} candidates, the columns of W, got {value.score.shape[0]}")
    finite("scores", value.score)
    return value


def criterion_result(result: object, moments: ClassMoments) -> tuple[Array, Array]:
    """Check what a user's criterion returned; return score (M,) float64 and group (M,) int64."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise TypeError(f"criterion: expected a callable returning (score (M,), group (M,)), got {type(result).__name__}")
    xp = array_namespace(moments.mean)
    where = {"device": moments.mean.device} if is_tensor(moments.mean) else {}
    score, group = xp.asarray(result[0], **where), xp.asarray(result[1], **where)
    for name, array in (("score", score), ("group", group)):
        if tuple(array.shape) != (moments.n_candidates,):
            raise ValueError(f"criterion: expected {name} of shape (M,) = ({moments.n_candidates},), got {tuple(array.shape)}")
    if not is_integer(group):
        raise TypeError(f"criterion: expected group as integers, row numbers of moments.mean, got {group.dtype}")
    if group.min() < 0 or group.max() >= len(moments.classes):
        raise ValueError(f"criterion: expected group in [0, {len(moments.classes)}), got {int(group.min())} to {int(group.max())}")
    score = xp.asarray(score, dtype=xp.float64)
    finite("criterion's score", score)
    return score, xp.asarray(group, dtype=xp.int64)


def finite(name: str, array: Array, first_row: int = 0) -> None:
    """Raise at the first NaN or infinity, naming its position; reads block by block, copies nothing of full size.

    ``first_row`` is the place of the array's first row in what it is a slice of.
    """
    if is_integer(array):
        return
    xp = array_namespace(array)
    elements = FINITE_CHECK_ELEMENTS["gpu" if is_tensor(array) and array.device.type != "cpu" else "cpu"]
    rows = max(1, elements // max(1, int(np.prod(array.shape[1:]))))
    for first in range(0, array.shape[0] if array.ndim else 1, rows):
        block = array[first : first + rows] if array.ndim else array
        # A sum is finite only if every term is; a sum that overflowed is looked at term by term.
        with np.errstate(over="ignore", invalid="ignore"):
            suspicious = not xp.isfinite(block.sum())
        if suspicious and not xp.isfinite(block).all():
            position = np.argwhere(~np.isfinite(as_numpy(block)))[0]
            value = as_numpy(block)[tuple(position)]
            if array.ndim:
                position[0] += first_row + first
            raise ValueError(f"{name}: expected finite numbers, got {value} at {tuple(position.tolist())}")


def is_integer(array: Array) -> bool:
    """Whether the array's dtype is an integer (booleans are not)."""
    if is_tensor(array):
        return not (array.dtype.is_floating_point or array.dtype.is_complex or str(array.dtype) == "torch.bool")
    return bool(array.dtype.kind in "iu")


def _array(name: str, value: object) -> Array:
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
        raise TypeError(f"{name}: expected an array, got {type(value).__name__}")
    return array


def _numpy_has(dtype: str) -> bool:
    try:
        np.dtype(dtype)
    except TypeError:
        return dtype == "bfloat16"
    return True


def _same_place(name: str, array: object, W: Array) -> None:
    """Samples may stay in host memory when the weights are on a GPU; nothing else may be apart."""
    place, expected = (str(a.device) if is_tensor(a) else "cpu" for a in (array, W))
    if place not in ("cpu", expected):
        raise ValueError(f"{name}: expected on the device of W, {expected}, or in host memory, got {place}")


def _float_kind(name: str, array: Array, half: bool, also: str = "") -> None:
    dtype = str(array.dtype).removeprefix("torch.") if is_tensor(array) else array.dtype.name
    if dtype in ("float32", "float64") or (half and dtype in HALF_NAMES):
        return
    hint = "; 16-bit floats need backend='gpu', or cast them" if dtype in HALF_NAMES else ""
    raise TypeError(f"{name}: expected float32 or float64{also}, got {dtype}{hint}")


def _matrix(name: str, array: Array, shape: str) -> None:
    if array.ndim != 2:
        raise ValueError(f"{name}: expected shape {shape}, got {tuple(array.shape)}")


def _non_empty(name: str, array: Array) -> None:
    if 0 in array.shape:
        raise ValueError(f"{name}: expected at least one row and one column, got shape {tuple(array.shape)}")
