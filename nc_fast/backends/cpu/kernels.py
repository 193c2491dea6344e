"""Numba kernels: arrays in, ``out`` written; no validation, GIL released.

Every inner loop runs along memory and vectorises. In the moments' kernel rows of ``z`` are samples of one tile and columns
candidates of one block; in the pursuit's a row is a candidate's activation on all samples.
"""
# mypy: ignore-errors

from __future__ import annotations

from functools import cache
from hashlib import blake2b
from math import sqrt
from pathlib import Path

import numpy as np
from numba import float64

from nc_fast import activations
from nc_fast.backends.cpu import elementwise
from nc_fast.backends.cpu.elementwise import FUNCTIONS
from nc_fast.runtime.compiled import compiled
from nc_fast.tolerances import RANK_TOLERANCE

# "contract" allows fused multiply-adds; nothing that reorders sums or assumes finite numbers.
_jit = compiled({"contract"})
_reordering_jit = compiled({"contract", "reassoc"})  # sums in vector lanes
# Numba's cache does not see that a kernel depends on the functions of other files; it does see the variables that a kernel names.
_files = [Path(module.__file__) for module in (activations, elementwise)]
SOURCE = blake2b(b"".join(file.read_bytes() for file in _files if file.is_file())).hexdigest()
PIECEWISE_LINEAR = {"identity", "relu", "leaky_relu"}  # an instruction or two: applied where they are summed
SMALLEST = np.finfo(np.float64).tiny  # whose reciprocal is finite


@cache
def tile_moments(activation: str):
    """Return the kernel for an activation in the table; each is compiled when it is first called."""
    activate, source = FUNCTIONS[activation], SOURCE
    at_once = activation in PIECEWISE_LINEAR
    last = activate if at_once else FUNCTIONS["identity"]

    @_jit
    def kernel(
        z,  # (n, m or more) float32 or float64, products of one tile
        sign,  # 1 or -1 of z's dtype, multiplies z
        bias,  # (m,) dtype of z, added to it
        order,  # (n,) int64, the rows, sorted by class
        starts,  # (S + 1,) int64, where each class's run starts in ``order``; the last entry is n
        offset,  # column of ``mean`` and ``m2`` that z's first column belongs to
        mean,  # (S, M) float64, out: mean of each run
        m2,  # (S, M) float64, out: sum of squared deviations of each run
    ):
        source  # noqa: B018
        n_columns = len(bias)
        one, eight = z.dtype.type(1), np.arange(8)
        scratch, zeros = np.empty((8, 0 if at_once else n_columns), z.dtype), np.zeros(n_columns, z.dtype)
        rows, places, factor, shift = (z, order, sign, bias) if at_once else (scratch, eight, one, zeros)
        for s in range(len(starts) - 1):
            run_mean, run_m2 = mean[s, offset : offset + n_columns], m2[s, offset : offset + n_columns]
            run_mean[:] = 0.0
            run_m2[:] = 0.0
            # Eight rows at a time: in registers their sums as deviations from the first of them, then Chan's merge. A constant
            # column gets exactly its value and m2 exactly 0. Where a run ends early, the first row is taken again: it adds nothing.
            for i in range(starts[s], starts[s + 1], 8):
                n = min(starts[s + 1] - i, 8)
                before = i - starts[s]
                part, share = 1.0 / n, n / (before + n)
                weight = before * share
                if not at_once:
                    for k in range(n):
                        given, out = z[order[i + k]], scratch[k]
                        for j in range(n_columns):
                            out[j] = activate(sign * given[j] + bias[j])
                p = i if at_once else 0
                z0, z1 = rows[places[p]], rows[places[p + 1 if n > 1 else p]]
                z2, z3 = rows[places[p + 2 if n > 2 else p]], rows[places[p + 3 if n > 3 else p]]
                z4, z5 = rows[places[p + 4 if n > 4 else p]], rows[places[p + 5 if n > 5 else p]]
                z6, z7 = rows[places[p + 6 if n > 6 else p]], rows[places[p + 7 if n > 7 else p]]
                for j in range(n_columns):
                    b = shift[j]
                    first = float64(last(factor * z0[j] + b))
                    d1 = float64(last(factor * z1[j] + b)) - first
                    d2 = float64(last(factor * z2[j] + b)) - first
                    d3 = float64(last(factor * z3[j] + b)) - first
                    d4 = float64(last(factor * z4[j] + b)) - first
                    d5 = float64(last(factor * z5[j] + b)) - first
                    d6 = float64(last(factor * z6[j] + b)) - first
                    d7 = float64(last(factor * z7[j] + b)) - first
                    total = ((d1 + d2) + (d3 + d4)) + ((d5 + d6) + d7)
                    squares = d1 * d1 + d2 * d2 + d3 * d3 + d4 * d4 + d5 * d5 + d6 * d6 + d7 * d7
                    delta = (first - run_mean[j]) + total * part
                    run_mean[j] += delta * share
                    run_m2[j] += (squares - total * (total * part)) + delta * (delta * weight)

    return kernel


@cache
def in_place(activation: str):
    """Return the kernel that applies an activation in the table to contiguous numbers (n,), float32 or float64, where they are."""
    activate, source = FUNCTIONS[activation], SOURCE

    @_jit
    def kernel(z):
        source  # noqa: B018
        for i in range(len(z)):
            z[i] = activate(z[i])

    return kernel


@_jit
def merge_runs(
    runs,  # (S,) int64, classes
    starts,  # (S + 1,) int64, whose differences are the runs' counts
    run_mean,  # (S, M) float64
    run_m2,  # (S, M) float64
    count,  # (C,) int64, merged into
    mean,  # (C, M) float64, merged into
    m2,  # (C, M) float64, merged into
):
    for s in range(len(runs)):
        c, n = runs[s], starts[s + 1] - starts[s]
        share = n / (count[c] + n)
        weight = count[c] * share
        for j in range(mean.shape[1]):
            delta = run_mean[s, j] - mean[c, j]
            mean[c, j] += delta * share
            m2[c, j] += run_m2[s, j] + delta * (delta * weight)
        count[c] += n


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
