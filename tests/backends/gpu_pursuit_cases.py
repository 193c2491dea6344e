"""What the tests of the GPU backend's pursuit share; interpreted, against the float64 reference."""

import numpy as np
import pytest
from gpu_cases import torch

from nc_fast.backends.gpu import activations, pursue
from nc_fast.backends.reference.pursue import pursue as reference_pursue

PRODUCTION = (pursue.pass_constants, activations.ROWS)


@pytest.fixture
def few_programs(monkeypatch):
    """Taller tiles: the interpreter takes its time by the program."""
    monkeypatch.setattr(pursue, "pass_constants", lambda C: PRODUCTION[0](C) | {"BM": 64})
    monkeypatch.setattr(activations, "ROWS", 32)


def problem(rng, n=60, D=8, M=70, C=3, dtype=np.float32):
    W, X, T = rng.normal(size=(D, M)), rng.normal(size=(n, D)), rng.normal(size=(n, C))
    return W.astype(dtype), X.astype(dtype), T - T.mean(axis=0), rng.normal(size=M) * 0.3


def tensor(value):
    return value if isinstance(value, torch.Tensor) else torch.from_numpy(value)


def run(W, X, T, bias, k, activation="relu", damping=1e-3, **options):
    given = {"bias": tensor(bias), "activation": activation, "damping": damping, "block": "auto"}
    return pursue.pursue(tensor(W), tensor(X), tensor(T), k, **given | options)


def check(W, X, T, bias, k, activation="relu", damping=1e-3, exact_activation=None, **options):
    """Raise unless the picks are the reference's, in order."""
    found = run(W, X, T, bias, k, activation, damping, **options)
    arrays = [tensor(value).double().numpy() for value in (W, X)]
    exact = reference_pursue(*arrays, T, k, bias=bias, activation=exact_activation or activation, damping=damping, block=1)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_allclose(found.gains, exact.gains, rtol=1e-9, atol=1e-13 * (T**2).sum())
    np.testing.assert_allclose(found.explained, exact.explained, rtol=0, atol=1e-12)
    assert (found.kept, found.filled) == (exact.kept, exact.filled)
    return found


def count_rounds(monkeypatch):
    calls, whole = [], pursue._Loop.round
    monkeypatch.setattr(pursue._Loop, "round", lambda loop, at_most: (calls.append(at_most), whole(loop, at_most)))
    return calls
