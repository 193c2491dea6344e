"""Numba kernels of the sparse product: arrays in, ``out`` written; no allocation, no validation, GIL released.

Inner loops run over slices, whose indices from 0 LLVM vectorises without asking whether one is negative.
"""
# mypy: ignore-errors

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

from nc_fast.runtime.compiled import compiled

# Of candidates in a pass; both rows' sums stay in registers: 8 of AVX-512's 32, or 8 of AVX2's 16, where 256 bytes take twice the
# time. A power of 2, as LLVM is five times slower with others. For D = 784 features 200 KB, in the level-2 cache.
CHUNK_BYTES = 256 if "+avx512f" in get_host_cpu_features() else 128
_jit = compiled({"contract"})  # as in kernels.py


@_jit
def mark_used(
    x,  # (n, D) float32 or float64
    every,  # after so many rows it is looked whether all features are marked
    used,  # (D,) bool, out: whether the feature is other than 0 anywhere; False at the start
):
    for i in range(len(x)):
        row = x[i]
        for k in range(len(used)):
            used[k] |= row[k] != 0
        if i % every == every - 1 and used.all():
            return


@_jit
def count_blocks(
    x,  # (n, D) float32 or float64
    order,  # (n,) int64, some of its rows, as they are paired
    step,  # one pair of rows in so many is counted
    counts,  # (as many pairs or more,) int64, out: features that either row uses
):
    """Return their sum too."""
    total = 0
    for i in range(((len(order) + 1) // 2 + step - 1) // step):
        upper = x[order[2 * step * i]]
        lower = x[order[min(2 * step * i + 1, len(order) - 1)]]
        count = 0
        for k in range(x.shape[1]):
            count += (upper[k] != 0) | (lower[k] != 0)
        counts[i] = count
        total += count
    return total


@_jit
def gather_blocks(
    x,  # (n, D) float32 or float64
    order,  # (n,) int64, some of its rows, as they are paired
    starts,  # (P + 1,) int64, where each pair's blocks start
    columns,  # (B + 1,) int32, out: feature of each block; the last entry is scratch
    values,  # (B, 2) dtype of x, out
):
    zero = x.dtype.type(0)
    for p in range(len(starts) - 1):
        first, stop, paired = starts[p], starts[p + 1], 2 * p + 1 < len(order)
        upper = x[order[2 * p]]
        lower = x[order[2 * p + 1]] if paired else upper
        block = np.uint64(first)
        for k in range(x.shape[1]):  # written always, kept by moving on: no branch that zeros and non-zeros would mislead
            columns[block] = k
            block += np.uint64((upper[k] != 0) | (lower[k] != 0))
        for b in range(first, stop):
            values[b, 0] = upper[columns[b]]
            values[b, 1] = lower[columns[b]] if paired else zero


@_jit
def count_merged(
    starts,  # (N + 1,) int64, where each row of a CSR matrix starts
    columns,  # (E,) integer, ascending within a row
    rows,  # (n,) int64, the rows that are meant
    counts,  # ((n + 1) // 2,) int64, out: features that either row of a pair uses
):
    for p in range(len(counts)):
        i, i_stop = starts[rows[2 * p]], starts[rows[2 * p] + 1]
        j, j_stop = (starts[rows[2 * p + 1]], starts[rows[2 * p + 1] + 1]) if 2 * p + 1 < len(rows) else (0, 0)
        counts[p] = i_stop - i + j_stop - j
        while i < i_stop and j < j_stop:
            left, right = columns[i], columns[j]
            counts[p] -= left == right
            i += left <= right
            j += left >= right


@_jit
def merge_rows(
    starts,  # (N + 1,) int64, where each row of a CSR matrix starts
    columns,  # (E,) integer, ascending within a row
    values,  # (E,) any real dtype
    rows,  # (n,) int64, the rows that are meant
    block_columns,  # (B + 1,) int32, out: feature of each block; the last entry is left alone
    block_values,  # (B, 2) float32 or float64, out
):
    b, zero = 0, block_values.dtype.type(0)
    for p in range((len(rows) + 1) // 2):
        i, i_stop = starts[rows[2 * p]], starts[rows[2 * p] + 1]
        j, j_stop = (starts[rows[2 * p + 1]], starts[rows[2 * p + 1] + 1]) if 2 * p + 1 < len(rows) else (0, 0)
        while i < i_stop or j < j_stop:
            take_i = j == j_stop or (i < i_stop and columns[i] <= columns[j])
            take_j = i == i_stop or (j < j_stop and columns[j] <= columns[i])
            block_columns[b] = columns[i] if take_i else columns[j]
            block_values[b, 0] = block_values.dtype.type(values[i]) if take_i else zero
            block_values[b, 1] = block_values.dtype.type(values[j]) if take_j else zero
            b += 1
            i += take_i
            j += take_j


@intrinsic
def _pair_product(_, columns, values, first, stop, panel, sums):
    """Write the sum over blocks first to stop of values[b, r] * panel[columns[b]] to sums[r], which stays in registers meanwhile.

    In LLVM's own words, as its vectoriser loads and stores the sums for every block: a third slower.
    """

    def generate(context, builder, signature, arguments):
        arrays = [context.make_array(signature.args[i])(context, builder, arguments[i]) for i in (0, 1, 4, 5)]
        columns, values, panel, sums = (array.data for array in arrays)
        width = cgutils.unpack_tuple(builder, arrays[2].shape)[1]
        number = context.get_data_type(signature.args[1].dtype)
        size = signature.args[1].dtype.bitwidth // 8
        row = ir.VectorType(number, CHUNK_BYTES // size)  # cut by LLVM to the registers that the processor has
        int32, int64 = ir.IntType(32), ir.IntType(64)
        lanes = ir.Constant(ir.VectorType(int32, row.count), [0] * row.count)
        nothing = ir.Constant(row, ir.Undefined)

        before = builder.block
        test, body, after = (builder.append_basic_block(name) for name in ("test", "body", "after"))
        builder.branch(test)
        builder.position_at_end(test)
        block, *totals = builder.phi(int64), builder.phi(row), builder.phi(row)
        block.add_incoming(arguments[2], before)
        for total in totals:
            total.add_incoming(ir.Constant(row, None), before)
        builder.cbranch(builder.icmp_signed("<", block, arguments[3]), body, after)

        builder.position_at_end(body)
        column = builder.zext(builder.load(builder.gep(columns, [block])), int64)
        start = builder.gep(panel, [builder.mul(column, width)])
        weights = builder.load(builder.bitcast(start, row.as_pointer()), align=size)
        pair = builder.gep(values, [builder.shl(block, int64(1))])
        for r, total in enumerate(totals):
            value = builder.insert_element(nothing, builder.load(builder.gep(pair, [int64(r)])), int32(0))
            product = builder.fmul(builder.shuffle_vector(value, nothing, lanes), weights, flags=("contract",))
            total.add_incoming(builder.fadd(total, product, flags=("contract",)), body)
        block.add_incoming(builder.add(block, int64(1)), body)
        builder.branch(test)

        builder.position_at_end(after)
        for r, total in enumerate(totals):
            place = builder.gep(sums, [int64(r * row.count)])
            builder.store(total, builder.bitcast(place, row.as_pointer()), align=size)
        return context.get_dummy_value()

    return types.void(columns, values, first, stop, panel, sums), generate


@_jit
def multiply_pairs(
    starts,  # (P + 1,) int64, where each pair's blocks start
    columns,  # (B + 1,) int32, feature of each block
    values,  # (B, 2) float32 or float64
    W,  # (D, m) dtype of values, of any layout
    panel,  # (D, CHUNK_BYTES of values) dtype of values, scratch for some of W's columns
    sums,  # (2, the same) dtype of values, scratch
    out,  # (n, m or more) dtype of values, out: the product
):
    n, m = len(out), W.shape[1]
    zero = panel.dtype.type(0)
    for first in range(0, m, panel.shape[1]):
        width = min(panel.shape[1], m - first)
        for k in range(len(W)):
            row, weights = panel[k], W[k, first : first + width]
            for j in range(width):
                row[j] = weights[j]
            row[width:] = zero
        for p in range(len(starts) - 1):
            _pair_product(columns, values, starts[p], starts[p + 1], panel, sums)
            for r in range(min(2, n - 2 * p)):
                row, total = out[2 * p + r, first : first + width], sums[r]
                for j in range(width):
                    row[j] = total[j]


@_jit
def multiply_unpacked(
    starts,  # (P + 1,) int64, where each pair's blocks start
    columns,  # (B + 1,) int32, feature of each block
    values,  # (B, 2) float32 or float64
    W,  # (D, M) dtype of values, C-contiguous
    begin,  # the first of W's columns that are meant
    scratch,  # (m,) dtype of values, for the row that an odd number lacks
    out,  # (n, m or more) dtype of values, out: the product
):
    n, m, end = len(out), len(scratch), begin + len(scratch)
    zero = out.dtype.type(0)
    for p in range(len(starts) - 1):
        upper = out[2 * p, :m]
        lower = out[2 * p + 1, :m] if 2 * p + 1 < n else scratch
        upper[:] = zero
        lower[:] = zero
        b, stop = starts[p], starts[p + 1]
        while b + 2 <= stop:  # two blocks for each time that the sums are loaded and stored
            a0, a1, b0, b1 = values[b, 0], values[b, 1], values[b + 1, 0], values[b + 1, 1]
            first, second = W[columns[b], begin:end], W[columns[b + 1], begin:end]
            for j in range(len(upper)):
                total = upper[j] + a0 * first[j]
                upper[j] = total + b0 * second[j]
                total = lower[j] + a1 * first[j]
                lower[j] = total + b1 * second[j]
            b += 2
        if b < stop:
            a0, a1, first = values[b, 0], values[b, 1], W[columns[b], begin:end]
            for j in range(len(upper)):
                upper[j] += a0 * first[j]
                lower[j] += a1 * first[j]
