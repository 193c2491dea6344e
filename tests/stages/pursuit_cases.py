"""What the tests of pursuit share: random problems, and an oracle that replays picks without any of the library's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from nc_fast.activations import ACTIVATIONS
from nc_fast.inputs.arrays import as_numpy

TIED, EXHAUSTED, DEAD, NOTHING = 1e-9, 1e-6, 1e-6, 1e-12  # docs/pursuit.md


@dataclass
class Problem:
    W: np.ndarray
    X: np.ndarray
    y: np.ndarray
    k: int
    options: dict[str, Any]


def small(dtype: Any = np.float64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return a pool, samples and labels of three classes."""
    rng = np.random.default_rng(8)
    X = rng.normal(size=(400, 6)).astype(dtype)
    y = 1 * (np.abs(X[:, 0]) + X[:, 1] > 0.8) + (X[:, 2] > 0.5)
    return rng.normal(size=(6, 60)).astype(dtype), X, y


def tilted(z):
    """An activation of the user's own."""
    return np.abs(z) + 0.3 * z


def random_problem(seed: int) -> Problem:
    """Labels or targets, whole numbers with ties, duplicates, dead candidates, k beyond the rank, every activation and dtype."""
    rng = np.random.default_rng(seed)
    n, M, D, C = rng.integers(5, 120), rng.integers(2, 80), rng.integers(1, 10), rng.integers(1, 5)
    X, W, bias = rng.normal(size=(n, D)), rng.normal(size=(D, M)), rng.normal(size=M)
    kind = seed % 6
    if kind == 1:
        X, W, bias = (np.round(array) for array in (X, W, bias))
    elif kind == 2:
        W[:, rng.integers(0, M, M // 2)] = W[:, [0]]
        bias[:] = bias[0]
    elif kind == 3:
        W[:, rng.integers(0, M, M // 3)] = 0
        X, W = X.astype(np.float32), W.astype(np.float32)
    elif kind == 4:
        X, W, bias = (rng.random((n, D)) < 0.3).astype(float), np.sign(W), np.zeros(M)
    elif kind == 5:
        X = rng.integers(-9, 10, size=(n, D)).astype([np.int8, np.int64, np.int16][seed % 3])
    if seed % 4 == 0:
        y: np.ndarray = np.append(rng.integers(0, C + 1, n - 2), [0, 1])
    elif seed % 4 == 1:
        y = rng.normal(size=n) + 5
    else:
        y = rng.normal(size=(n, C))
    activation = [*ACTIVATIONS, tilted][seed % 11]
    damping = [1e-3, 0.0, 0.1][seed // 2 % 3]
    return Problem(W, X, y, int(rng.integers(1, M + 1)), {"bias": bias, "activation": activation, "damping": damping})


def centred_targets(y: np.ndarray) -> np.ndarray:
    T = y.reshape(len(y), -1) if y.dtype.kind == "f" else (y[:, None] == np.unique(y)).astype(float)
    return T.astype(np.float64) - T.mean(axis=0, dtype=np.float64)


def standardized(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the columns standardised, which are alive, and whether one can be taken for either."""
    largest = np.abs(z).max(axis=0)
    z = (z / np.where(largest > 0, largest, 1)).astype(np.longdouble)
    z -= z[0].copy()
    z -= z.mean(axis=0)
    deviation = np.sqrt((z**2).mean(axis=0))
    doubtful = bool(((deviation > DEAD / 2) & (deviation < 2 * DEAD)).any())
    live = deviation > DEAD
    return (z / np.where(live, deviation, 1) * live).astype(np.float64), live, doubtful


def assert_follows_the_rules(found: Any, z: np.ndarray, T: np.ndarray, k: int, damping: float) -> bool:
    """Raise unless every pick, replayed, is the rule's choice; return whether no other backend could choose otherwise.

    z are (n, M) raw activations, T (n, C) centred targets.
    """
    indices, gains, explained = (as_numpy(array) for array in (found.indices, found.gains, found.explained))
    assert (indices.dtype, gains.dtype, explained.dtype) == (np.int64, np.float64, np.float64)
    assert indices.shape == gains.shape == explained.shape == (k,)
    assert len(set(indices.tolist())) == k, "a candidate is picked twice"
    u, live, doubtful = standardized(z)
    n, total, left, basis, share = len(z), float((T**2).sum()), np.ones(z.shape[1], bool), np.zeros((len(z), 0)), 0.0
    done = k - found.filled
    for t in range(k):
        norm = (u**2).sum(axis=0)
        near = left & live & (norm > EXHAUSTED * n / 4) & (norm < EXHAUSTED * n * 4)
        if doubtful or near.any():
            return False
        eligible = left & live & (norm > EXHAUSTED * n)
        if t == done:
            assert not eligible.any(), f"pick {t} fills up, and yet {np.flatnonzero(eligible)} are left"
            assert indices[t:].tolist() == np.flatnonzero(left)[: k - t].tolist(), "fills up by another than the lowest index"
            assert not gains[t:].any()
            np.testing.assert_allclose(explained[t:], share, rtol=0, atol=1e-9)
            break
        gain = np.where(eligible, ((T.T @ u) ** 2).sum(axis=0) / (np.where(eligible, norm, 1) + damping * n), -np.inf)
        best, pick = float(gain.max()), int(indices[t])
        if NOTHING * total / 100 < best < NOTHING * total * 100:
            return False
        if best <= NOTHING * total:
            gain[eligible], best = 0.0, 0.0
        assert eligible[pick], f"pick {t}, {pick}, is dead, exhausted or was picked before"
        noise = 1e-7 * best + 1e-10 * np.sqrt(max(best, 0.0) * total)
        assert gain[pick] >= best - noise, f"pick {t}: gain {gain[pick]}, {best} was to be had"
        sure = eligible & (gain >= best * (1 - TIED / 100))
        doubt = eligible & ~sure & (gain >= best - 10 * noise)
        if doubt.any() or (best > 0 and sure.sum() > 1 and noise > best * 1e-5):
            return False
        assert pick == np.argmax(sure), f"pick {t}: {pick}, and {np.flatnonzero(sure)} are tied"
        np.testing.assert_allclose(gains[t], gain[pick], rtol=1e-6, atol=1e-11 * total)
        q = u[:, pick] - basis @ (basis.T @ u[:, pick])
        basis = np.column_stack([basis, q / np.linalg.norm(q)])
        u -= basis[:, -1:] * (basis[:, -1] @ u)
        u -= basis @ (basis.T @ u)
        left[pick] = False
        share = float(((np.linalg.qr(basis)[0].T @ T) ** 2).sum() / total) if total else 0.0
        np.testing.assert_allclose(explained[t], share, rtol=0, atol=1e-9)
    return True


def raw_activations(problem: Problem) -> np.ndarray:
    activation = problem.options["activation"]
    act = ACTIVATIONS[activation] if isinstance(activation, str) else activation
    return act(problem.X.astype(np.float64) @ problem.W.astype(np.float64) + problem.options["bias"])
