"""NullSpaceProjector as an object: copies, pickles, errors, threads, Ctrl-C, docstrings."""

from __future__ import annotations

import copy
import doctest
import pickle
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from projector_cases import projector_on

from nc_fast import _projector
from nc_fast._projector import NullSpaceProjector, greedy_select, simd_level


def test_reset_empties_the_span() -> None:
    projector = projector_on(np.eye(4, 2))
    projector.reset()
    assert (projector.rank, projector.basis.shape) == (0, (0, 4))
    np.testing.assert_array_equal(projector.ratios(np.eye(4)), np.ones(4))


@pytest.mark.parametrize(
    "duplicate",
    [NullSpaceProjector.copy, copy.copy, copy.deepcopy, lambda projector: pickle.loads(pickle.dumps(projector))],
    ids=["copy()", "copy", "deepcopy", "pickle"],
)
def test_copies_are_equal_and_independent(duplicate) -> None:  # type: ignore[no-untyped-def]
    rng = np.random.default_rng(4)
    W = rng.standard_normal((6, 9))
    projector = projector_on(W[:, :2])
    other = duplicate(projector)
    np.testing.assert_array_equal(other.basis, projector.basis)
    np.testing.assert_array_equal(other.ratios(W), projector.ratios(W))
    other.add(W[:, 5])
    assert (projector.rank, other.rank) == (2, 3)
    assert repr(projector) == "NullSpaceProjector(dim=6, rank=2)"


def test_basis_is_a_copy() -> None:
    projector = projector_on(np.eye(3, 2))
    projector.basis[:] = 7
    np.testing.assert_array_equal(projector.basis, np.eye(2, 3))


@pytest.mark.parametrize(
    "state",
    [
        (3,),
        (3, np.eye(2)),
        (2, np.ones((3, 2))),
        (0, np.zeros((0, 0))),
        ("a", 1),
        (10**30, np.eye(2)),
        (2, "a"),
        (2, np.full((1, 2), np.nan)),
    ],
)
def test_a_damaged_pickle_is_refused(state: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"basis: expected|state: expected|dim: expected"):
        NullSpaceProjector.__new__(NullSpaceProjector).__setstate__(state)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda _: NullSpaceProjector(0), ValueError, r"dim: expected an integer from 1 to 2\^63 - 1, got 0"),
        (lambda _: NullSpaceProjector(10**30), ValueError, r"dim: expected an integer from 1 to 2\^63 - 1, got 10+"),
        (lambda _: NullSpaceProjector(2.5), TypeError, "dim: expected an integer, got 2.5"),
        (lambda p: p.add([1.0, 2.0]), TypeError, "vector: expected a NumPy array of float32 or float64, got list"),
        (lambda p: p.add(np.ones(4, int)), TypeError, "vector: .* float32 or float64, got dtype <i8"),
        (lambda p: p.add(np.ones(4, ">f8")), TypeError, "vector: .* float32 or float64, got dtype >f8"),
        (lambda p: p.add(np.ones(3)), ValueError, r"vector: expected shape \(D,\) = \(4,\), got \(3,\)"),
        (lambda p: p.add(np.ones((4, 1))), ValueError, r"vector: expected shape \(D,\) = \(4,\), got \(4, 1\)"),
        (lambda p: p.add(np.array([1, np.nan, 0, 0])), ValueError, "vector: expected finite values, got NaN"),
        (lambda p: p.add(np.array([1, np.inf, 0, 0], np.float32)), ValueError, "vector: expected finite values"),
        (lambda p: p.add(np.ma.masked_array(np.ones(4), mask=[1, 0, 0, 0])), TypeError, "vector: expected an array without a mask"),
        (lambda p: p.ratios(None), TypeError, "W: expected a NumPy array of float32 or float64, got NoneType"),
        (lambda p: p.ratios(np.ones((3, 2))), ValueError, r"W: expected shape \(D, M\) = \(4, \*\), got \(3, 2\)"),
        (lambda p: p.ratios(np.ones(4)), ValueError, r"W: expected shape \(D, M\) = \(4, \*\), got \(4,\)"),
        (lambda p: p.ratios(np.ones((4, 2), np.float16)), TypeError, "W: .* float32 or float64, got dtype <f2"),
        (lambda p: p.residual_norms(np.full((4, 2), np.inf)), ValueError, "W: expected finite values, .* column 0"),
    ],
)
def test_errors_name_the_argument(call, error: type[Exception], message: str) -> None:  # type: ignore[no-untyped-def]
    projector = NullSpaceProjector(4)
    with pytest.raises(error, match=message):
        call(projector)
    assert projector.rank == 0


def test_threads_may_share_a_projector() -> None:
    rng = np.random.default_rng(10)
    W = rng.standard_normal((60, 400))
    projector = NullSpaceProjector(60)
    seen: list[np.ndarray] = []

    def read() -> None:
        for _ in range(20):
            seen.append(projector.ratios(W))

    def write(first: int) -> None:
        for j in range(first, 40, 2):
            projector.add(W[:, j])

    threads = [threading.Thread(target=read) for _ in range(2)]
    threads += [threading.Thread(target=write, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert projector.rank == 40
    np.testing.assert_allclose(projector.ratios(W), projector_on(W[:, :40]).ratios(W), atol=1e-9)
    for ratios in seen:  # each between two additions: what either writer has added so far lies in the span, the rest does not
        for first in range(2):
            inside = ratios[first:40:2] == 0
            assert not inside[inside.sum() :].any()
        assert (ratios[40:] > 0.01).all()


INTERRUPTED = """
import sys, numpy as np
from nc_fast._projector import NullSpaceProjector, greedy_select
W = np.random.default_rng(0).standard_normal((900, 6000))
projector = NullSpaceProjector(900)
for j in range(900):
    projector.add(W[:, j])
W = np.tile(W, 4)
M = W.shape[1]
print("ready", flush=True)
try:
    {call}
    print("finished")
except KeyboardInterrupt:
    print("interrupted", flush=True)  # before the interpreter tidies up
"""


@pytest.mark.parametrize(
    "call",
    [
        "projector.ratios(W)",
        "greedy_select(W, np.ones(M), np.zeros(M, np.int64), np.array([M]), threads=1, lazy=False)",
        "greedy_select(W, np.ones(M), np.arange(M) % 3, np.full(3, M // 3), threads=2, lazy=False)",
    ],
)
def test_ctrl_c_stops_within_a_second(call: str) -> None:
    program = [sys.executable, "-c", INTERRUPTED.format(call=call)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(signal.SIGINT)
        start = time.perf_counter()
        assert process.stdout.readline() == "interrupted\n"
        assert time.perf_counter() - start < 1


@pytest.mark.parametrize("documented", [NullSpaceProjector, greedy_select])
def test_the_examples_in_the_docstrings_run(documented: object) -> None:
    test = doctest.DocTestParser().get_doctest(documented.__doc__ or "", {}, "example", None, None)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_simd_level_is_one_of_the_documented() -> None:
    assert simd_level() in {"avx2+fma", "baseline"}
    assert _projector.__doc__
