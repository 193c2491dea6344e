"""From samples to the neurons of the layer: a pool of candidates, and the order in which they are taken from it."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2b
from typing import Any

import numpy as np

from nc_fast import candidates as pools
from nc_fast.api import campaign
from nc_fast.gram import Gram, Sums, add_samples
from nc_fast.inputs.arrays import as_numpy
from nc_fast.runtime.caller import warn_caller
from nc_fast.sklearn.rows import Sample
from nc_fast.stages.moments import CandidatePool


def draw_pool(how: str | Callable[..., Any], sample: Sample, size: int, k: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the weights (D, M) and biases (M,) of candidates, in the dtype of the samples.

    Few samples make few pairs: candidates that come again are left out, but for those that k neurons need.
    """
    X = sample.X
    if how == "gaussian":
        W = pools.gaussian(X.shape[1], size, rng, dtype=X.dtype)
        return W, -(X.mean(axis=0, dtype=np.float64) @ W)
    several = sample.labels is not None and sample.labels.min() < sample.labels.max()
    y = sample.labels if several else sample.T  # of few rows, all may have the same class most often
    W, bias = (how if callable(how) else pools.data_pairs)(X, y, size, rng)
    W, bias = np.asarray(W, X.dtype), np.asarray(bias)
    digests = b"".join(blake2b(w, digest_size=8).digest() for w in np.ascontiguousarray(W.T))
    kept = np.sort(np.unique(np.frombuffer(digests, np.uint64), return_index=True)[1])
    again = np.setdiff1d(np.arange(W.shape[1]), kept)
    kept = np.concatenate([kept, again[: max(0, k - len(kept))]])
    return W[:, kept], bias[kept]


def by_campaign(pool: CandidatePool, sample: Sample, k: int) -> np.ndarray:
    """Return the candidates (k,) that a campaign picks, those of the largest gains first."""
    result = campaign(
        pool.W, sample.X, sample.labels, k, bias=pool.bias, activation=pool.activation, backend=pool.backend.name, ignore_index=None
    )
    indices: np.ndarray = as_numpy(result.indices)[np.argsort(-as_numpy(result.gains), kind="stable")]
    return indices


def pursued(pool: CandidatePool, sample: Sample, count: int) -> np.ndarray:
    """Return the candidates that a pursuit picks, in order; beyond the rank of their activations, the first of the others."""
    if not count:
        return np.zeros(0, np.int64)
    picks = pool.pursue(sample.X, sample.T - sample.T.mean(axis=0), count)
    if picks.kept < pool.size:
        warn_caller(f"pool, max_samples: only the {picks.kept} of {pool.size} candidates with the largest first gains fit in memory")
    return as_numpy(picks.indices)


def activations(pool: CandidatePool, X: np.ndarray) -> np.ndarray:
    """Return the activations (n, M) of a pool, in the dtype of its weights."""
    return as_numpy(pool.activations(X)).astype(pool.W.dtype, copy=False)


def gram_of(sums: Sums | None, Z: np.ndarray, T: np.ndarray, weight: np.ndarray) -> Gram:
    """Return what a head is solved from: sums over samples; and activations, targets and weights of some, to judge strengths by."""
    assert sums
    return Gram(sums.weight, sums.mean, sums.target_mean, sums.gram, sums.cross, None, (Z, T, weight))


def gram_of_sample(Z: np.ndarray, sample: Sample) -> Gram:
    """Return what a head on the activations Z of a sample is solved from."""
    return gram_of(add_samples(None, Z, sample.T, sample.weight, exact=True), Z, sample.T, sample.weight)
