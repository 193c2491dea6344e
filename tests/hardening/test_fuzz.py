"""Every public function on whatever can be drawn: a correct result or a documented error, and no input is changed.

The gate runs the same examples each time; `make fuzz` runs NC_FAST_FUZZ_SCALE times as many random ones (docs/reliability.md).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import fuzz_strategies as fuzz
import torch
from fuzz_oracles import Activations, NullSpace, assert_documented, assert_moments, assert_scores, assert_selection, unchanged
from fuzz_strategies import HOSTS
from hypothesis import assume, given
from hypothesis import strategies as st

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.registry import BACKENDS
from nc_fast.inputs.arrays import as_numpy
from nc_fast.types import ClassMoments, Scores

needs_gpu = pytest.mark.skipif(BACKENDS["gpu"].missing() is not None, reason=f"{BACKENDS['gpu'].missing()}")


def result_or_refusal(call: Callable[[], Any]) -> tuple[Any, str]:
    """Return what the call returns, or the message of its ValueError."""
    try:
        return call(), ""
    except ValueError as error:
        assert_documented(error)
        return None, str(error)


def is_tensor(value: Any) -> bool:
    return isinstance(value, torch.Tensor)


@st.composite
def problems(draw: Any, *, gpu: bool = False, n: int = 40, d: int = 9, m: int = 24) -> dict[str, Any]:
    """Pool, samples, labels, bias and activation that fit together, each as whatever a user may pass."""
    if gpu:
        n, d, m = 12, 5, 9
    N, D, M = draw(st.integers(1, n)), draw(st.integers(1, d)), draw(st.integers(1, m))
    tensor = draw(st.booleans())
    X = draw(fuzz.samples((N, D)))
    bias = draw(st.sampled_from([0.0, -0.5, 3, np.float32(0.25)]) | fuzz.numbers((M,), np.float64, ["normal", "scales", "zero"]))
    if isinstance(bias, np.ndarray):
        bias = draw(fuzz.given_array(bias, tensor=draw(st.booleans()), more=("list",)))
    else:
        bias = fuzz.Given([bias][0], np.asarray(bias, np.float64), None, "number")
    return {
        "W": draw(fuzz.given_array(draw(fuzz.numbers((D, M), draw(fuzz.FLOATS))), tensor=tensor)),
        "X": draw(fuzz.given_array(X, tensor=draw(st.booleans()), more=("only slices",))),
        "y": draw(fuzz.labels(N, least=draw(st.sampled_from([1, 2, 2, 2])), tensor=draw(st.booleans()))),
        "bias": bias,
        "activation": draw(st.sampled_from(sorted(ACTIVATIONS))),
    }


def arrays_of(problem: dict[str, Any]) -> list[fuzz.Given]:
    return [problem[name] for name in ("W", "X", "y", "bias")]


def moments_of(problem: dict[str, Any], backend: str, **changes: Any) -> ClassMoments:
    arguments = {name: getattr(value, "value", value) for name, value in problem.items()}
    return nc_fast.class_moments(**{**arguments, **changes}, backend=backend)


def activations_of(problem: dict[str, Any], backend: str) -> Activations:
    W, X, _, bias = (given.plain for given in arrays_of(problem))
    return Activations(W, X, bias, problem["activation"], backend)


def check_moments(problem: dict[str, Any], backend: str) -> None:
    with unchanged(*arrays_of(problem)):
        found = moments_of(problem, backend)
    assert is_tensor(found.mean) == is_tensor(problem["W"].value)
    assert_moments(found, activations_of(problem, backend), problem["y"].plain)
    if (problem["X"].plain == problem["X"].plain[0]).all() and activations_of(problem, backend).fits:
        assert not as_numpy(found.spread()).any(), "the same sample throughout, and yet a spread"


@fuzz.examples(160)
@given(problems(), st.sampled_from(HOSTS))
def test_moments(problem, backend):
    check_moments(problem, backend)


@fuzz.examples(40)
@given(problems(), st.sampled_from(HOSTS), st.integers(1, 40), st.booleans())
def test_moments_of_batches_and_sums(problem, backend, rows, add):
    X, y = problem["X"].plain, problem["y"].plain
    cuts = [slice(first, first + rows) for first in range(0, len(X), rows)]
    with unchanged(*arrays_of(problem)):
        if add:
            parts = [moments_of(problem, backend, X=X[cut], y=y[cut]) for cut in cuts]
            found = sum(parts[1:], parts[0])
        else:
            found = moments_of(problem, backend, X=((X[cut], y[cut]) for cut in cuts), y=None)
        whole = moments_of(problem, backend)
    assert_moments(found, activations_of(problem, backend), y)
    if not add:
        for name in ("classes", "count", "mean", "m2"):
            np.testing.assert_array_equal(as_numpy(getattr(found, name)), as_numpy(getattr(whole, name)), err_msg="bits differ")


@st.composite
def campaigns(draw: Any, **sizes: Any) -> dict[str, Any]:
    problem = draw(problems(**sizes))
    k = draw(st.integers(1, problem["W"].plain.shape[1]))
    alpha = draw(st.sampled_from([0, 1, 0.5, 0.25, np.float32(0.75), True + 0.0]) | st.floats(0, 1))
    options = {"k": draw(st.sampled_from([k, np.int8(k)])), "alpha": alpha, "by_class": draw(st.booleans())}
    return {**problem, **options, "method": draw(st.sampled_from(["exact", "exact", "screened"]))}


def check_campaign(arguments: dict[str, Any], backend: str) -> None:
    values = {name: getattr(value, "value", value) for name, value in arguments.items()}
    W, y, alpha = values.pop("W"), arguments["y"].plain, float(arguments["alpha"])
    plain = arguments["W"].plain
    with unchanged(*arrays_of(arguments)):
        found, refusal = result_or_refusal(lambda: nc_fast.campaign(W, **values, backend=backend))
        if refusal:
            few = alpha < 1 and len(np.unique(y)) < 2
            overflow = not activations_of(arguments, backend).fits and "overflow" in refusal
            assert few or overflow, refusal
            return
        problem = {name: arguments[name] for name in ("W", "X", "y", "bias", "activation")}
        moments = moments_of(problem, backend)
    assert is_tensor(found.weights) == is_tensor(W)
    np.testing.assert_array_equal(as_numpy(found.weights), plain[:, as_numpy(found.indices)])
    assert found.weights.dtype == W.dtype
    assert found.bias.dtype == W.dtype
    with np.errstate(over="ignore"):
        own = np.broadcast_to(arguments["bias"].plain, plain.shape[1]).astype(plain.dtype)[as_numpy(found.indices)]
    np.testing.assert_array_equal(as_numpy(found.bias), own)
    assert_moments(moments, activations_of(arguments, backend), y)
    assert_scores(found.candidates, moments, alpha)
    assert_selection(found, plain, found.candidates, int(arguments["k"]), arguments["by_class"])
    assert (found.certificate is None) == (arguments["method"] == "exact")


@fuzz.examples(120)
@given(campaigns(), st.sampled_from(HOSTS))
def test_campaign(arguments, backend):
    check_campaign(arguments, backend)


@needs_gpu
@fuzz.examples(8)
@given(campaigns(gpu=True))
def test_campaign_on_the_gpu_backend(arguments):
    check_campaign(arguments, "gpu")


@needs_gpu
@fuzz.examples(8)
@given(problems(gpu=True))
def test_moments_on_the_gpu_backend(problem):
    check_moments(problem, "gpu")


@fuzz.examples(60)
@given(st.data(), st.integers(1, 6), st.integers(1, 30), st.booleans(), st.floats(0, 1))
def test_scores(data, C, M, tensor, alpha):
    mean = data.draw(fuzz.numbers((C, M), np.float64))
    m2 = np.abs(data.draw(fuzz.numbers((C, M), np.float64)))
    count = np.random.default_rng(M).integers(0, 5, size=C) + (np.arange(C) == 0)
    mean[count == 0], m2[count < 2] = 0, 0
    arrays = [torch.from_numpy(array.copy()) if tensor else array.copy() for array in (count, mean, m2)]
    moments = ClassMoments(np.arange(C), *arrays)
    given_arrays = [fuzz.Given(array, as_numpy(array), as_numpy(array), "moments") for array in arrays]
    with unchanged(*given_arrays):
        found, refusal = result_or_refusal(lambda: nc_fast.ib_scores(moments, alpha=alpha))
    if refusal:
        overflows = "overflow" in refusal and (m2.max() > 1e307 or np.abs(mean).max() > 5e152)
        assert overflows or (alpha < 1 and C < 2), refusal
        return
    assert is_tensor(found.score) == tensor
    assert_scores(found, moments, alpha)


@st.composite
def selections(draw: Any, *, d: int = 8, m: int = 30) -> dict[str, Any]:
    D, M = draw(st.integers(1, d)), draw(st.integers(1, m))
    tensor, dtype = draw(st.booleans()), draw(fuzz.FLOATS)
    score = draw(fuzz.numbers((M,), dtype)) if draw(st.booleans()) else np.random.default_rng(D).integers(-3, 4, size=M)
    return {
        "W": draw(fuzz.given_array(draw(fuzz.numbers((D, M), draw(fuzz.FLOATS))), tensor=tensor)),
        "scores": draw(fuzz.given_array(score, tensor=tensor and draw(st.booleans()), more=("list",))),
        "groups": draw(fuzz.labels(M, tensor=draw(st.booleans()))),
        "k": draw(st.integers(1, M)),
        "by_class": draw(st.booleans()),
    }


def check_selection(arguments: dict[str, Any], backend: str, whole: bool) -> None:
    values = {name: getattr(value, "value", value) for name, value in arguments.items()}
    W, k, by_class = arguments["W"], arguments["k"], arguments["by_class"]
    score, groups = arguments["scores"].plain, arguments["groups"].plain
    M = len(score)
    live = np.arange(M) % 5 > 0 if whole else np.ones(M, bool)
    classes, codes = np.unique(groups, return_inverse=True)
    scores = Scores(score.astype(np.float64), codes, live, classes)
    if whole:
        values |= {"scores": scores, "groups": None}
    with unchanged(W, arguments["scores"], arguments["groups"]):
        found = nc_fast.select(**values, backend=backend)
    assert is_tensor(found.indices) == is_tensor(W.value)
    assert_selection(found, W.plain, scores, k, by_class)


@fuzz.examples(120)
@given(selections(), st.sampled_from(HOSTS), st.booleans())
def test_select(arguments, backend, whole):
    check_selection(arguments, backend, whole)


@needs_gpu
@fuzz.examples(8)
@given(selections(d=4, m=10), st.booleans())
def test_select_on_the_gpu_backend(arguments, whole):
    check_selection(arguments, "gpu", whole)


@fuzz.examples(80)
@given(st.data(), st.integers(1, 9), st.integers(1, 20))
def test_projector(data, D, M):
    projector = nc_fast.NullSpaceProjector(D)
    added = data.draw(fuzz.numbers((D, data.draw(st.integers(1, D + 3))), data.draw(fuzz.FLOATS)))
    W = data.draw(fuzz.given_array(data.draw(fuzz.numbers((D, M), data.draw(fuzz.FLOATS)))))
    together = NullSpace(np.hstack([added.astype(np.float64), W.plain.astype(np.float64)]))
    for j, vector in enumerate(added.T):
        vector = data.draw(fuzz.given_array(vector.copy()))
        assume(not together.ratios()[1])
        with unchanged(vector):
            if not vector.value.dtype.isnative:
                with pytest.raises(TypeError, match="vector: expected a NumPy array of float32 or float64, got dtype >f"):
                    projector.add(vector.value)
            norm = projector.add(vector.value.astype(vector.plain.dtype, copy=False))
        length = float(np.sqrt(np.square(vector.plain.astype(np.longdouble)).sum()))
        np.testing.assert_allclose(norm, together.ratios()[0][j] * length, rtol=1e-9, atol=1e-9 * min(length, 1e300))
        together.add(j)
    assume(not together.ratios()[1])
    assert projector.rank == len(together.basis)
    with unchanged(W):
        if not W.value.dtype.isnative:
            with pytest.raises(TypeError, match="W: expected a NumPy array of float32 or float64, got dtype >f"):
                projector.ratios(W.value)
            return
        ratios, norms = projector.ratios(W.value), projector.residual_norms(W.value)
    expected = together.ratios()[0][len(added.T) :]
    np.testing.assert_allclose(ratios, expected, rtol=1e-6, atol=1e-9)
    lengths = np.sqrt(np.square(W.plain.astype(np.longdouble)).sum(axis=0)).astype(float)
    np.testing.assert_allclose(norms, ratios * lengths, rtol=1e-9, atol=1e-320)
    assert ratios.dtype == norms.dtype == np.float64
