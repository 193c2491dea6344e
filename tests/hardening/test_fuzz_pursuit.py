"""Pursuits and heads of whatever can be drawn, as in test_fuzz.py: the rules' picks or a documented error; wrong things refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import fuzz_strategies as fuzz
import torch
from fuzz_oracles import assert_documented, unchanged
from fuzz_strategies import HOSTS
from hypothesis import given, note
from hypothesis import strategies as st
from pursuit_cases import assert_follows_the_rules, centred_targets
from test_moments import DEFINITIONS

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.inputs.arrays import as_numpy
from nc_fast.inputs.targets import LARGEST_TARGET, LEAST_TARGET

pytestmark = pytest.mark.filterwarnings("ignore:k = .* exceeds the rank:UserWarning")

ROUNDING = 1e-11  # of activations, in deviations of their own: more, and their last digits may decide picks


@st.composite
def targets(draw: Any, n: int) -> fuzz.Given:
    """Labels, or float targets of one or several outputs."""
    if draw(st.booleans()):
        return draw(fuzz.labels(n, least=2, tensor=draw(st.booleans())))
    shape = draw(st.sampled_from([(n,), (n, 1), (n, 3)]))
    return draw(fuzz.given_array(draw(fuzz.numbers(shape, draw(fuzz.FLOATS))), tensor=draw(st.booleans())))


@st.composite
def pursuits(draw: Any) -> dict[str, Any]:
    N, D, M = draw(st.integers(1, 30)), draw(st.integers(1, 8)), draw(st.integers(1, 20))
    more = ("only slices",)
    return {
        "W_candidates": draw(fuzz.given_array(draw(fuzz.numbers((D, M), draw(fuzz.FLOATS))), tensor=draw(st.booleans()))),
        "X": draw(fuzz.given_array(draw(fuzz.samples((N, D))), tensor=draw(st.booleans()), more=more)),
        "y": draw(targets(N)),
        "bias": draw(fuzz.given_array(draw(fuzz.numbers((M,), np.float64, ["normal", "whole", "zero"])), more=("list",))),
        "k": draw(st.integers(1, M)),
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
        "damping": draw(st.sampled_from([0, 1e-3, np.float32(0.125), 10.0])),
    }


def result_or_refusal(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, str]:
    """Return what the call returns, or the message of its ValueError."""
    try:
        return function(*args, **kwargs), ""
    except ValueError as error:
        assert_documented(error)
        return None, str(error)


def vary(y: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        T = centred_targets(y)
        largest = np.abs(y).max() if y.dtype.kind == "f" else 1.0
        return bool(largest <= LARGEST_TARGET and np.abs(T).max() > max(1e-11 * largest, LEAST_TARGET))


def activations(W: np.ndarray, X: np.ndarray, problem: dict[str, Any]) -> tuple[np.ndarray, float, float]:
    """Return the activations, the largest that a term of theirs may be, and how far rounding may have moved one, in deviations of its candidate's."""
    W, X = W.astype(np.float64), X.astype(np.float64)
    with np.errstate(all="ignore"):
        z = DEFINITIONS[problem["activation"]](X @ W + problem["bias"].plain)
        size = np.abs(X).max(axis=0) @ np.abs(W) + np.abs(problem["bias"].plain)
        spread = z.std(axis=0)
        moved = 4e-16 * np.maximum(size, np.abs(z).max(axis=0)) / np.where(spread > 0, spread, np.inf)
        return z, float(np.fmax(size.max(), np.abs(np.nan_to_num(z, nan=np.inf)).max())), float(moved.max())


@fuzz.examples(500)
@given(pursuits())
def test_pursuit(problem):
    values = {name: getattr(value, "value", value) for name, value in problem.items()}
    given_arrays = [problem[name] for name in ("W_candidates", "X", "y", "bias")]
    W, X, y = (given_array.plain for given_array in given_arrays[:3])
    X_cpu = X.astype(W.dtype) if X.dtype.kind != "f" else X
    single = np.result_type(W, X_cpu) == np.float32
    z, size, moved = activations(W, X_cpu, problem)
    found = {}
    for backend in ("cpu", "reference"):
        with unchanged(*given_arrays):
            found[backend], refusal = result_or_refusal(nc_fast.pursuit, **values, block=1, backend=backend)
        if refusal:
            overflow = size > (1e14 if single else 1e140)
            assert overflow if "overflow" in refusal else not vary(y), refusal
            return
    assert vary(y) or moved > ROUNDING or np.abs(centred_targets(y)).max() > 0
    for result in found.values():
        for name in ("weights", "bias", "indices", "gains", "explained", "head", "intercept"):
            array = getattr(result, name)
            assert isinstance(array, torch.Tensor) == isinstance(values["W_candidates"], torch.Tensor)
            assert np.isfinite(as_numpy(array)).all(), name
        np.testing.assert_array_equal(as_numpy(result.weights), W[:, as_numpy(result.indices)])
    # Activations that float32 cannot tell from constants, or from 0, are dead on the CPU before float64 sees them.
    spread = np.ptp(z, axis=0)
    resolved = not single or ((spread == 0) | ((spread > 1e-4 * np.abs(z).max(axis=0)) & (spread > 1e-30))).all()
    if moved > ROUNDING or not resolved or np.abs(z).max() > 1e150 or spread[spread > 0].min(initial=1) < 1e-290:
        return
    T, k, damping = centred_targets(y), problem["k"], float(problem["damping"])
    if np.abs(T).max() < 1e-5 * np.abs(y if y.dtype.kind == "f" else 1).max():
        return  # digits of the targets
    sure = assert_follows_the_rules(found["cpu"], z, T, k, damping)
    if np.array_equal(X_cpu.astype(np.float64), X.astype(np.float64)):
        sure &= assert_follows_the_rules(found["reference"], z, T, k, damping)
        if sure:
            np.testing.assert_array_equal(as_numpy(found["cpu"].indices), as_numpy(found["reference"].indices))


@fuzz.examples(150)
@given(st.data(), st.integers(1, 40), st.integers(1, 12), st.sampled_from(["loo", 0, 1e-3, 1.0]), st.booleans())
def test_ridge_head(data, N, k, ridge, weighted):
    Z = data.draw(fuzz.given_array(data.draw(fuzz.numbers((N, k), data.draw(fuzz.FLOATS))), tensor=data.draw(st.booleans())))
    y = data.draw(targets(N))
    weight = np.random.default_rng(N).integers(0, 3, N) + (np.arange(N) == N // 2) if weighted else None
    with unchanged(Z, y):
        found, refusal = result_or_refusal(nc_fast.ridge_head, Z.value, y.value, ridge=ridge, sample_weight=weight)
    if y.plain.dtype.kind == "f" and np.abs(y.plain).max() < LEAST_TARGET:
        return  # digits of float32
    if refusal:
        large = y.plain.dtype.kind == "f" and np.abs(y.plain).max() > LARGEST_TARGET
        assert large or np.abs(Z.plain).max() > 1e14, refusal
        return
    assert isinstance(found.weights, torch.Tensor) == isinstance(Z.value, torch.Tensor)
    weights, intercept = as_numpy(found.weights), as_numpy(found.intercept)
    assert np.isfinite(weights).all()
    assert np.isfinite(intercept).all()
    assert found.loo_error >= 0
    left = Z.plain.astype(np.float64) @ weights + intercept
    share = np.ones(N) if weight is None else weight
    given_targets = y.plain.reshape(N, -1) if y.plain.dtype.kind == "f" else (y.plain[:, None] == np.unique(y.plain)) * 1.0
    constant = share @ (given_targets - np.average(given_targets, axis=0, weights=weight)) ** 2
    rounding = N * (1e-5 * (np.abs(Z.plain).max(axis=0) @ np.abs(weights))) ** 2 + 1e-12 * N * np.abs(given_targets).max(axis=0) ** 2
    error = share @ (left - given_targets) ** 2
    assert (error <= constant * (1 + 1e-3) + rounding).all(), "worse than a constant, on the samples that it was fitted on"


NOT_WHOLE = [bad for bad in fuzz.NOT_COUNTS if not (type(bad) is int and bad > 1)]
NOT_POSITIVE = [bad for bad in fuzz.NOT_SHARES if not (type(bad) is float and 1 < bad < 2)]
WRONG = {
    "k": st.sampled_from(fuzz.NOT_COUNTS),
    "max_samples": st.sampled_from([1, *NOT_WHOLE]),
    "damping": st.sampled_from(NOT_POSITIVE),
    "block": st.sampled_from([*NOT_WHOLE, "AUTO", "", b"auto"]),
    "rng": st.sampled_from([-1, 2.5, True, None, "0", [0], fuzz.NAN, np.random.RandomState]),
    "activation": st.sampled_from([*fuzz.NOT_NAMES, *fuzz.BAD_CALLABLES]),
    "backend": st.sampled_from(fuzz.NOT_NAMES),
    "precision": st.sampled_from(["fp16", *fuzz.NOT_NAMES]),
    "ridge": st.sampled_from(["los", "", *NOT_POSITIVE]),
}


def wrong_targets(draw: Any, n: int) -> Any:
    y = np.arange(n) / 2
    marked = y.copy()
    marked[draw(st.integers(0, n - 1))] = draw(st.sampled_from([fuzz.NAN, fuzz.INF, -fuzz.INF, 1e31, -1e300]))
    wrong = [marked, torch.from_numpy(marked), np.stack([y, marked], 1), y[:-1], y[:, None, None], np.zeros((n, 0)), y + 1j]
    wrong += [
        np.ma.masked_array(y, mask=True),
        np.eye(n, dtype=int),
        np.array([[0.5], [1, 2]] + [[3]] * n, object),
        torch.zeros(n, device="meta"),
    ]
    return wrong[draw(st.integers(0, len(wrong) - 1))]


@fuzz.examples(150)
@given(st.data(), st.sampled_from(["W_candidates", "X", "y", "bias", *(name for name in WRONG if name != "ridge")]), st.sampled_from(HOSTS))
def test_pursuit_refuses_what_is_wrong(data, name, backend):
    rng = np.random.default_rng(0)
    good = {"W_candidates": rng.normal(size=(4, 9)), "X": rng.normal(size=(12, 4)), "y": np.arange(12) % 3, "k": 3}
    if name == "y":
        wrong = wrong_targets(data.draw, 12)
    elif name in WRONG:
        wrong = data.draw(WRONG[name])
    else:
        wrong = data.draw(fuzz.wrong_array(rng.normal(size=9) if name == "bias" else good[name], numbers_are_good=name == "bias"))
    note(f"{name} = {wrong!r}")
    with pytest.raises((TypeError, ValueError)) as caught, unchanged():
        nc_fast.pursuit(**{"backend": backend, **good, name: wrong})
    assert_documented(caught.value)
    assert str(caught.value).startswith(f"{name}:"), caught.value


@fuzz.examples(60)
@given(st.data(), st.sampled_from(["Z", "T", "ridge"]))
def test_ridge_head_refuses_what_is_wrong(data, name):
    good = {"Z": np.random.default_rng(0).normal(size=(12, 4)), "T": np.arange(12) % 3}
    wrong = {"T": lambda: wrong_targets(data.draw, 12), "Z": lambda: data.draw(fuzz.wrong_array(good["Z"]))}.get(
        name, lambda: data.draw(WRONG["ridge"])
    )()
    note(f"{name} = {wrong!r}")
    with pytest.raises((TypeError, ValueError)) as caught, unchanged():
        nc_fast.ridge_head(**{**good, name: wrong})
    assert_documented(caught.value)
    assert str(caught.value).startswith(f"{name}:"), caught.value
