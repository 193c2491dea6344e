"""Numba kernels of the moments stage: arrays in, ``out`` written; no allocation, no validation, GIL released.

Rows of ``z`` are samples of one tile, columns candidates of one block, so every inner loop runs along memory and vectorises.
"""
# mypy: ignore-errors

from __future__ import annotations

from math import erf, sqrt

from numba import float64, njit

from nc_fast.activations import LEAKY_SLOPE

# "contract" allows fused multiply-adds; nothing that reorders sums or assumes finite numbers.
_jit = njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
SQRT_HALF = sqrt(0.5)


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
