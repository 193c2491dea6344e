"""Pursuit: windows, the exact greedy order, and NumPy with one pass over all activations per pick; and fastcan, the peer.

The first start from candidates and samples. fastcan chooses among the columns of a matrix, so beside it all do: activations at hand,
the pool being the identity. Picks are compared before timing.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import sizes
from contest import compete, turns
from inputs import DataMissingError, inputs
from setups import Contender, Task
from sizes import Size

import nc_fast
import nc_fast.candidates
from nc_fast.backends.cpu.pursue import pursue

DAMPING = 1e-3
LEAST_EXPLAINED = 0.99  # what picks in windows, or in float32, explain of what the exact ones do: near ties fall either way


@dataclass(frozen=True, eq=False)
class Problem:
    """W (D, M), bias (M,) float64, X (n, D), T (n, C) float64, centred, and k."""

    W: np.ndarray
    bias: np.ndarray
    X: np.ndarray
    T: np.ndarray
    k: int
    activation: str = "relu"

    def ours(self, damping: float, block: int | str) -> Any:
        return pursue(self.W, self.X, self.T, self.k, bias=self.bias, activation=self.activation, damping=damping, block=block)

    def activations(self) -> np.ndarray:
        """Return them (n, M) float32, centred and divided by their standard deviations."""
        Z = self.X.copy()
        if self.activation == "relu":
            Z = self.X @ self.W
            Z += self.bias.astype(np.float32)
            np.maximum(Z, 0, out=Z)
        Z -= Z.mean(axis=0)
        deviation = Z.std(axis=0)
        Z /= np.where(deviation > 1e-6, deviation, np.inf)
        return Z


@lru_cache(maxsize=2)
def problem(size: Size, at_hand: bool) -> Problem:
    """Return the problem of a size: a pool of data pairs, one-hot targets.

    ``at_hand``: its activations, among which to choose, and targets whitened as fastcan does it.
    """
    given = inputs(size)
    W, bias = nc_fast.candidates.data_pairs(given.X, given.y, size.M, 0)
    T = (given.y[:, None] == np.unique(given.y)).astype(np.float64)
    T -= T.mean(axis=0)
    found = Problem(W, bias.astype(np.float64), given.X, T, size.k)
    if not at_hand:
        return found
    pool = np.eye(size.M, dtype=np.float32)
    return Problem(pool, np.zeros(size.M), found.activations(), np.linalg.qr(T[:, 1:])[0], size.k, "identity")


def pass_per_pick(given: Problem, damping: float) -> np.ndarray:
    """Forward orthogonal least at_hands in float32: every pick reads all activations once."""
    Z = given.activations()
    n, k = len(Z), given.k
    C, norm, Q, picks = given.T.astype(np.float32).T @ Z, np.full(Z.shape[1], float(n)), np.empty((k, n), np.float32), []
    norm[~Z.any(axis=0)] = 0
    for t in range(k):
        gain = np.where(norm > 1e-6 * n, (C * C).sum(axis=0) / (norm + damping * n), -1.0)
        gain[picks] = -1
        picks.append(int(gain.argmax()))
        q = Z[:, picks[-1]].copy()
        for _ in range(2):
            q -= (Q[:t] @ q) @ Q[:t]
        Q[t] = q / np.linalg.norm(q)
        a = Q[t] @ Z
        C -= np.outer(Q[t] @ given.T.astype(np.float32), a)
        norm -= a.astype(np.float64) ** 2
    return np.array(picks)


def explained(given: Problem, picks: np.ndarray) -> float:
    Q = np.linalg.qr(given.activations()[:, picks])[0]
    return float(((Q.T @ given.T) ** 2).sum() / (given.T**2).sum())


def of_numpy(size: Size, at_hand: bool, damping: float) -> Task:
    given = problem(size, at_hand)

    def check(found: np.ndarray) -> dict[str, Any]:
        best = exact(size, at_hand, damping)
        share = explained(given, found) / explained(given, np.array(best))
        assert share >= LEAST_EXPLAINED, f"what the picks explain is {share:.3f} of what the exact ones do"
        return {"agree": f"{len(set(found.tolist()) & set(best))}/{size.k}"}

    return Task(partial(pass_per_pick, given, damping), check)


@lru_cache(maxsize=2)
def exact(size: Size, at_hand: bool, damping: float) -> tuple[int, ...]:
    return tuple(problem(size, at_hand).ours(damping, 1).indices.tolist())


def ours(size: Size, at_hand: bool, damping: float, block: int | str) -> Task:
    given = problem(size, at_hand)

    def check(found: Any) -> dict[str, Any]:
        assert found.explained[-1] >= LEAST_EXPLAINED * given.ours(damping, 1).explained[-1]
        return {"agree": f"{len(set(found.indices.tolist()) & set(exact(size, at_hand, damping)))}/{size.k}"}

    return Task(partial(given.ours, damping, block), check)


def with_head(size: Size) -> Task:
    """The public function: draws, picks, streams the Gram matrix, solves the head."""
    given, labels = problem(size, False), inputs(size).y
    return Task(partial(nc_fast.pursuit, given.W, given.X, labels, size.k, bias=given.bias, max_samples=size.N, backend="cpu"))


def activations_alone(size: Size) -> Task:
    return Task(problem(size, False).activations, notes={"other_work": True})


def peer(size: Size) -> Task:
    try:
        from fastcan import FastCan
    except ImportError:
        raise DataMissingError("fastcan is not installed") from None
    given = problem(size, True)
    Z = given.activations().astype(np.float64)
    live = np.flatnonzero(Z.any(axis=0))
    Z = Z[:, live]

    def run() -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return live[FastCan(n_features_to_select=size.k, verbose=0).fit(Z, given.T).indices_]

    def check(found: np.ndarray) -> dict[str, Any]:
        same = int((found == np.array(exact(size, True, 0.0))).sum())
        assert same == size.k, f"{same} of {size.k} picks are ours, in order"
        return {"agree": f"{same}/{size.k}"}

    return Task(run, check)


PURSUIT = {
    "cpu": Contender(partial(ours, at_hand=False, damping=DAMPING, block="auto"), baseline=True),
    "cpu, block=1": Contender(partial(ours, at_hand=False, damping=DAMPING, block=1), slow=True),
    "NumPy, a pass per pick": Contender(partial(of_numpy, at_hand=False, damping=DAMPING), slow=True),
    "cpu, with the head": Contender(with_head),
    "activations alone": Contender(activations_alone),
}
PEERS = {
    "cpu": Contender(partial(ours, at_hand=True, damping=0.0, block="auto"), baseline=True),
    "cpu, block=1": Contender(partial(ours, at_hand=True, damping=0.0, block=1)),
    "fastcan": Contender(peer),
    "NumPy, a pass per pick": Contender(partial(of_numpy, at_hand=True, damping=0.0)),
}


@turns(PURSUIT, sizes.PURSUIT)
def test_pursuit(benchmark, size, name):
    compete(benchmark, "pursuit", PURSUIT, size, name)


@turns(PEERS, sizes.PEERS)
def test_peers(benchmark, size, name):
    compete(benchmark, "peers", PEERS, size, name)
