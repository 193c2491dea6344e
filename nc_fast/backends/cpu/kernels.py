"""Numba kernels: arrays in, ``out`` written; no allocation, no validation, GIL released.

Every inner loop runs along memory and vectorises. In the moments' kernel rows of ``z`` are samples of one tile and columns
candidates of one block; in the pursuit's a row is a candidate's activation on all samples.
"""
# mypy: ignore-errors

from __future__ import annotations

from math import erf, sqrt

import numpy as np
from numba import float64, njit

from nc_fast.activations import LEAKY_SLOPE
from nc_fast.tolerances import RANK_TOLERANCE

# "contract" allows fused multiply-adds; nothing that reorders sums or assumes finite numbers.
_jit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
_reordering_jit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract", "reassoc"})  # sums in vector lanes
SQRT_HALF = sqrt(0.5)
SMALLEST = np.finfo(np.float64).tiny  # whose reciprocal is finite


NONE, RELU, LEAKY_RELU, GELU = range(4)
FUSED = {"identity": NONE, "relu": RELU, "leaky_relu": LEAKY_RELU, "gelu": GELU}  # the others are faster as NumPy's ufuncs


@_jit
def tile_moments(
    z,  # (n, m) float32 or float64, products of one tile, rows sorted by class; overwritten with the activations
    bias,  # (m,) dtype of z, added to z
    activation,  # one of the codes above, applied to z + bias
    starts,  # (S + 1,) int64, row at which each class run starts; the last entry is n
    offset,  # column of ``mean`` and ``m2`` that z's first column belongs to
    mean,  # (S, M) float64, out: mean of each run
    m2,  # (S, M) float64, out: sum of squared deviations of each run
):
    n_columns = z.shape[1]
    slope, half, one = z.dtype.type(LEAKY_SLOPE), z.dtype.type(0.5), z.dtype.type(1.0)
    root = z.dtype.type(SQRT_HALF)
    for s in range(len(starts) - 1):
        first, stop = starts[s], starts[s + 1]
        run_mean, run_m2 = mean[s, offset : offset + n_columns], m2[s, offset : offset + n_columns]
        run_mean[:] = 0.0
        run_m2[:] = 0.0
        # Summed as deviations from the run's first row: a constant column gets exactly its value and m2 exactly 0.
        for i in range(first, stop):
            if activation == RELU:
                for j in range(n_columns):
                    v = z[i, j] + bias[j]
                    z[i, j] = v if v > 0 else z.dtype.type(0)
            elif activation == LEAKY_RELU:
                for j in range(n_columns):
                    v = z[i, j] + bias[j]
                    z[i, j] = v if v > 0 else slope * v
            elif activation == GELU:
                for j in range(n_columns):
                    v = z[i, j] + bias[j]
                    z[i, j] = half * v * (one + erf(root * v))
            else:
                for j in range(n_columns):
                    z[i, j] += bias[j]
            for j in range(n_columns):
                run_mean[j] += float64(z[i, j]) - float64(z[first, j])
        for j in range(n_columns):
            run_mean[j] = float64(z[first, j]) + run_mean[j] / (stop - first)
        for i in range(first, stop):
            for j in range(n_columns):
                deviation = float64(z[i, j]) - run_mean[j]
                run_m2[j] += deviation * deviation


@_reordering_jit
def exact_products(
    w,  # (m, D) float64, candidates
    X,  # (n, D) float32 or float64, samples
    out,  # (m, n) float64, out: their products, the same bits for equal candidates
):
    for i in range(len(X)):
        for j in range(len(w)):
            total = 0.0
            for d in range(X.shape[1]):
                total += w[j, d] * float64(X[i, d])
            out[j, i] = total


@_reordering_jit
def standardize_rows(
    z,  # (m, n) float32 or float64, activations of candidates on all samples
    rows,  # (m, n) float32 or float64, out: centred and divided by their standard deviation; 0 where dead
    live,  # (m,) bool, out: whether the deviation is beyond rounding noise
):
    n = z.shape[1]
    for j in range(len(z)):
        largest = 0.0
        for i in range(n):
            largest = max(largest, abs(float64(z[j, i])))
        scale = 1.0 / max(largest, SMALLEST)  # squares neither over- nor underflow
        first = float64(z[j, 0])
        total = 0.0
        for i in range(n):  # as deviations from the first: a constant row gets exactly 0
            total += (float64(z[j, i]) - first) * scale
        mean = total / n
        squares = 0.0
        for i in range(n):
            deviation = (float64(z[j, i]) - first) * scale - mean
            squares += deviation * deviation
        deviation = sqrt(squares / n)
        live[j] = deviation > RANK_TOLERANCE
        factor = 1.0 / deviation if live[j] else 0.0
        for i in range(n):
            rows[j, i] = ((float64(z[j, i]) - first) * scale - mean) * factor
