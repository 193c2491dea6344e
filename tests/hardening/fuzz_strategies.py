"""Hypothesis strategies for everything a user can pass: values, dtypes, memory layouts, owners of memory, labels, wrong things.

Sizes, kinds and layouts are drawn by hypothesis and shrink; the numbers come from a drawn seed, which keeps an example cheap.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

SCALE = int(os.environ.get("NC_FAST_FUZZ_SCALE", "1"))  # `make fuzz` raises it; at 1 the examples are always the same ones
HOSTS = ("auto", "cpu", "reference")  # backends of every machine


def examples(count: int) -> Callable[[Any], Any]:
    """Settings of a test with ``count`` examples in the gate, SCALE times as many and random ones in the nightly run."""
    checks = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much]
    return settings(
        max_examples=count * SCALE, derandomize=SCALE == 1, database=None, deadline=None, print_blob=True, suppress_health_check=checks
    )


@dataclass(frozen=True)
class Given:
    """An argument: what is passed, its numbers in a plain array of the same precision, and the memory it lives in."""

    value: Any
    plain: np.ndarray
    memory: np.ndarray | None
    form: str

    def __repr__(self) -> str:
        return f"{self.form} {self.plain.dtype}{self.plain.shape} {self.plain.tolist()}"

    def snapshot(self) -> tuple[bytes, Any]:
        """Return what must be the same after a call: every byte of the memory, gaps included, and how it is looked at."""
        memory = b"" if self.memory is None else self.memory.tobytes()
        look = (str(self.value.dtype), tuple(self.value.shape)) if hasattr(self.value, "shape") else repr(self.value)
        return memory, look


# ------------------------------------------------------------------------------------------------------- memory layouts


def _gapped(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    memory = np.full([2 * n + 3 for n in array.shape], 77, array.dtype)
    view = memory[tuple(slice(1, 2 * n + 1, 2) for n in array.shape)]
    view[...] = array
    return view, memory


def _reversed(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    memory = array[(slice(None, None, -1),) * array.ndim].copy()
    return memory[(slice(None, None, -1),) * array.ndim], memory


def _read_only(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    memory = array.copy()
    memory.flags.writeable = False
    return memory, memory


def _packed(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    memory = np.zeros(array.shape, np.dtype([("pad", "u1"), ("value", array.dtype)]))  # not aligned
    memory["value"] = array
    return memory["value"], memory


def _swapped(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    memory = array.astype(array.dtype.newbyteorder())
    return memory, memory


def _mapped(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    with tempfile.TemporaryFile() as file:
        memory = np.memmap(file, array.dtype, "w+", shape=array.shape)
    memory[...] = array
    return memory, memory


def _mapped_reversed(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    memory, _ = _mapped(array[::-1])
    return np.asarray(memory)[::-1], memory


def _mapped_swapped(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return _mapped(array.astype(array.dtype.newbyteorder()))


def _same(copy: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    def form(array: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        memory = copy(array)
        return memory, memory

    return form


LAYOUTS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "C": _same(lambda array: array.copy("C")),
    "Fortran": _same(lambda array: array.copy("F")),
    "gapped": _gapped,
    "reversed": _reversed,
    "read-only": _read_only,
    "packed": _packed,
    "byte-swapped": _swapped,
    "memory-mapped": _mapped,
    "memory-mapped, reversed": _mapped_reversed,
    "memory-mapped, byte-swapped": _mapped_swapped,
}


class OnlySlices:
    """What h5py and Zarr offer."""

    def __init__(self, array: np.ndarray) -> None:
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __len__(self) -> int:
        return len(self._array)

    def __getitem__(self, key: slice) -> np.ndarray:
        return self._array[key]


def _lazy_minus(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype not in (torch.float32, torch.float64):
        return tensor
    return torch.complex(torch.zeros_like(tensor), -tensor).conj().imag  # a view whose sign torch has only noted


TENSORS: dict[str, Callable[[np.ndarray], torch.Tensor]] = {
    "tensor": lambda array: torch.from_numpy(array.copy()),
    "tensor, Fortran": lambda array: torch.from_numpy(array.copy("F")),
    "tensor, gapped": lambda array: torch.from_numpy(_gapped(array)[0]),
    "tensor with gradient": lambda array: torch.from_numpy(array.copy()).requires_grad_(array.dtype.kind == "f"),
    "tensor, lazy minus": lambda array: _lazy_minus(torch.from_numpy(array.copy())),
}


@st.composite
def given_array(draw: Any, array: np.ndarray, *, tensor: bool = False, more: tuple[str, ...] = ()) -> Given:
    """The array in a drawn layout or, with ``tensor``, as a torch tensor; ``more``: "list" or "only slices"."""
    if tensor:
        form = draw(st.sampled_from(sorted(TENSORS)))
        value = TENSORS[form](array)
        return Given(value, array, np.asarray(value.detach().resolve_neg()), form)
    form = draw(st.sampled_from([*LAYOUTS, *more]))
    if form == "list":
        return Given(array.tolist(), array, None, form)
    if form == "only slices":
        return Given(OnlySlices(array.copy()), array, array, form)
    value, memory = LAYOUTS[form](array)
    return Given(value, array, memory, form)


# --------------------------------------------------------------------------------------------------------------- numbers

SEEDS = st.integers(0, 2**32 - 1)
FLOATS = st.sampled_from([np.float32, np.float64])
# Extremes of each precision: denormal, tiny, huge (squares overflow), so huge that products overflow.
EXTREMES = {np.float32: [1e-43, 1e-30, 1e15, 3e37], np.float64: [1e-320, 1e-200, 1e140, 1e300]}
VALUES = [
    "normal", "whole", "offset", "sparse", "scales", "constant", "repeated", "zero", "nearly parallel", "extreme",
]  # fmt: skip


@st.composite
def numbers(draw: Any, shape: tuple[int, ...], dtype: Any, kinds: list[str] = VALUES) -> np.ndarray:
    """Finite numbers of a drawn kind, now and then with single entries of another size."""
    rng = np.random.default_rng(draw(SEEDS))
    kind = draw(st.sampled_from(kinds))
    found = rng.normal(size=shape)
    if kind == "whole":
        found = rng.integers(-2, 3, size=shape).astype(float)
    elif kind == "offset":
        found += draw(st.sampled_from([10.0, 1e4, -1e6]))
    elif kind == "sparse":
        found *= rng.random(shape) < 0.3
    elif kind == "scales":
        found *= 10.0 ** rng.integers(-12, 13, size=shape[-1])
    elif kind in ("constant", "zero"):
        found[...] = 0.0 if kind == "zero" else found.flat[0]
    elif kind == "repeated":
        found = found[..., rng.integers(0, shape[-1], size=shape[-1])]
    elif kind == "nearly parallel":
        found = found[..., :1] + draw(st.sampled_from([1e-3, 1e-9])) * found
    elif kind == "extreme":
        found *= draw(st.sampled_from(EXTREMES[dtype]))
    with np.errstate(over="ignore", under="ignore"):
        return np.clip(found, np.finfo(dtype).min, np.finfo(dtype).max).astype(dtype)


WHOLE = [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32, np.uint64, np.int64]


@st.composite
def samples(draw: Any, shape: tuple[int, int], kinds: list[str] = VALUES) -> np.ndarray:
    """Samples of any dtype that is taken, integers up to their ends."""
    if draw(st.integers(0, 3)):
        return draw(numbers(shape, draw(FLOATS), kinds))
    info = np.iinfo(draw(st.sampled_from(WHOLE)))
    least, most = (info.min, info.max) if draw(st.booleans()) else (max(info.min, -9), 9)
    return np.random.default_rng(draw(SEEDS)).integers(least, most, size=shape, dtype=info.dtype, endpoint=True)


# ---------------------------------------------------------------------------------------------------------------- labels


def _of(dtype: Any, names: list[Any]) -> Callable[[np.ndarray], np.ndarray]:
    return lambda codes: np.array([names[code] for code in codes], dtype)


WORDS = ["b", "", "ä", "c c", "zebra\n", "🙂", "0", "-1"]
LABELS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    **{np.dtype(dtype).name: _of(dtype, [0, 1, np.iinfo(dtype).max, 5, np.iinfo(dtype).min, 7, 100, 2]) for dtype in WHOLE},
    "bool": lambda codes: codes % 2 == 1,
    "str": _of("U6", WORDS),
    "bytes": _of("S6", [word.encode() for word in WORDS]),
    "objects: str": _of(object, WORDS),
    "objects: int": _of(object, [3, -1, 2**40, 7, 0, 9, 11, 1]),
}
MAX_CLASSES = len(WORDS)


@st.composite
def labels(draw: Any, n: int, *, least: int = 1, tensor: bool = False) -> Given:
    """Labels of any kind and layout; at least ``least`` classes where n allows it."""
    codes = np.random.default_rng(draw(SEEDS)).integers(0, draw(st.integers(least, MAX_CLASSES)), size=n)
    codes[: min(least, n)] = np.arange(min(least, n))
    kind = draw(st.sampled_from(sorted(LABELS)))
    plain = LABELS[kind](codes)
    if kind.startswith("objects"):
        return Given(plain.copy(), np.array(plain.tolist()), None, kind)
    return draw(given_array(plain, tensor=tensor and plain.dtype.kind in "iub", more=("list",) if plain.dtype.kind == "U" else ()))


# ----------------------------------------------------------------------------------------------------------- wrong things

NAN, INF = float("nan"), float("inf")
NOT_ARRAYS = [None, "text", b"bytes", {}, {1: 2}, object(), [[1.0], [1.0, 2.0]], lambda: 0, 1j, [], [[]]]
NOT_COUNTS = [0, -1, 10**30, True, 2.0, "3", None, np.float64(1), np.bool_(True), [2], np.array([1, 2]), NAN]
NOT_SHARES = [-1e-9, 1.0000001, NAN, INF, "half", b"0", None, True, 1j, 0.5 + 0j, [0.5], np.array([0.5]), np.datetime64("2020")]
NOT_NAMES = ["rleu", "", "RELU", 3, None, b"relu", ["relu"], "relu\n"]
BAD_CALLABLES = [lambda z: z[:1], lambda z: None, lambda z: z.sum(), lambda z: z[None]]


@st.composite
def wrong_array(draw: Any, good: np.ndarray, *, numbers_are_good: bool = False) -> Any:
    """Something in the place of a (rows, columns) or (n,) array that is to be refused; with ``numbers_are_good`` not for its dtype."""
    array = good.astype(np.float64)
    position = tuple(draw(st.integers(0, n - 1)) for n in good.shape)
    marked = array.copy()
    marked[position] = draw(st.sampled_from([NAN, INF, -INF]))
    wrong = [
        marked,
        LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](marked)[0],
        torch.from_numpy(marked),
        np.ma.masked_array(array, mask=np.zeros(array.shape, bool)),
        np.ma.masked_array(_mapped(array)[0], mask=True),
        array.astype(object),
        array.astype(complex),
        array.astype("U8"),
        np.zeros(array.shape, "datetime64[s]"),
        np.zeros(array.shape, [("a", "f8")]),
        array[..., None],
        array[None],
        array[:0],
        array[..., :0],
        torch.from_numpy(array).to_sparse(),
        torch.from_numpy(array).to("meta"),
        torch.from_numpy(array).to(torch.float8_e4m3fn),
        torch.from_numpy(array).to(torch.complex64),
        *NOT_ARRAYS,
    ]
    if numbers_are_good:
        wrong.append(array.astype(bool))  # of samples they are 0 and 1
    else:
        wrong += [array.astype(np.longdouble), torch.from_numpy(array).to(torch.bfloat16), array.tolist()[0]]
    return wrong[draw(st.integers(0, len(wrong) - 1))]


@st.composite
def wrong_labels(draw: Any, n: int) -> Any:
    """Something in the place of (n,) labels that is to be refused."""
    y = np.arange(n)
    wrong = [
        y[:-1], np.arange(n + 1), np.stack([y, y], 1), y / 2, y * 1.0, [1, "1"] * n, [None, *y[1:]], y.astype(complex), y.astype("datetime64[s]"), y.astype("timedelta64[s]"),
        np.ma.masked_array(y, mask=True), np.array([None] * n), np.array([2**70, *y[1:]], object), np.array([[1], [1, 2]] + [[3]] * n, object),
        np.zeros(n, [("a", "i4")]), torch.zeros(n), torch.zeros(n, dtype=torch.bfloat16), torch.zeros(n, dtype=torch.int64, device="meta"),
        torch.arange(n).to_sparse(), [0.5] * n, 0, "a" * n, *(bad for bad in NOT_ARRAYS if bad is not None),
    ]  # fmt: skip
    return wrong[draw(st.integers(0, len(wrong) - 1))]
