"""Numba kernels of the moments stage: arrays in, ``out`` written; no allocation, no validation, GIL released.

Rows of ``z`` are samples of one tile, columns candidates of one block, so every inner loop runs along memory and vectorises.
"""
# mypy: ignore-errors

from __future__ import annotations

from math import erf, sqrt

from numba import float64, njit

# "contract" allows fused multiply-adds; nothing that reorders sums or assumes finite numbers.
_jit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
SQRT_HALF = sqrt(0.5)


@_jit
def tile_moments(
    z,  # (n, m) float32 or float64, activations of one tile, rows sorted by class
    starts,  # (S + 1,) int64, row at which each class run starts; the last entry is n
    offset,  # column of ``mean`` and ``m2`` that z's first column belongs to
    mean,  # (S, M) float64, out: mean of each run
    m2,  # (S, M) float64, out: sum of squared deviations of each run
):
    for s in range(len(starts) - 1):
        first, stop = starts[s], starts[s + 1]
        run_mean, run_m2 = mean[s, offset : offset + z.shape[1]], m2[s, offset : offset + z.shape[1]]
        # Summed as deviations from the run's first row: a constant column gets exactly its value and m2 exactly 0.
        for j in range(z.shape[1]):
            run_mean[j] = 0.0
            run_m2[j] = 0.0
        for i in range(first + 1, stop):
            for j in range(z.shape[1]):
                run_mean[j] += float64(z[i, j]) - float64(z[first, j])
        for j in range(z.shape[1]):
            run_mean[j] = float64(z[first, j]) + run_mean[j] / (stop - first)
        for i in range(first, stop):
            for j in range(z.shape[1]):
                deviation = float64(z[i, j]) - run_mean[j]
                run_m2[j] += deviation * deviation


@_jit
def gelu(
    z,  # (n, m) float32 or float64, overwritten with z Phi(z); scipy.special.erf takes three times as long
):
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            z[i, j] *= 0.5 * (1.0 + erf(SQRT_HALF * z[i, j]))
    return z
