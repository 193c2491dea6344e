"""Normal numbers by their place: number n of a key is the same whoever draws it, so that threads share the work as they like.

Philox4x32-10 makes four 32-bit words of a key and a counter (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011),
and the transform of Box and Muller two normals of two uniforms. ``LANES`` counters go side by side, without a branch or a call, so
that everything vectorises. Fused multiply-adds are not allowed: all operations are IEEE's, the bits are the same on every processor.
"""
# mypy: ignore-errors

from __future__ import annotations

from math import log, sqrt

import numpy as np

from nc_fast.runtime.compiled import compiled

LANES = 256  # counters worked on at once: their words and normals stay in the first cache
_jit = compiled()

LOW, WORD, ALL_ONES = np.uint64(0xFFFFFFFF), np.uint64(32), np.uint32(0xFFFFFFFF)
MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)

# Polynomials in t, highest power first, by mpmath.chebyfit: -2 log((1 + s) / (1 - s)) / s in t = s² up to ((√2 - 1) / (√2 + 1))²;
# sin(πa) / a and cos(πa) in t = a² up to 1/4. Errors are below 2e-8 (float32) and 1e-17 (float64).
LOG_32 = -0.59848780958289974, -0.79949701035038096, -1.3333363067630238, -3.9999999972626363
SIN_32 = 0.077655912276013869, -0.59829041128342753, 2.5500773865289119, -5.1677100766683144, 3.1415926400772033
COS_32 = -0.024395932097550444, 0.23493706859508651, -1.3352119493905503, 4.0587091547631343, -4.9348021369289456, 0.99999999977915403
LOG_64 = (
    *(-0.29619420721310553, -0.30625056296728382, -0.36367263360458658, -0.44444394113452093),
    *(-0.5714285752128336, -0.79999999998604676, -1.3333333333333529, -4.0),
)
SIN_64 = (
    *(7.6978267682241906e-7, -2.1903497074626017e-5, 0.00046629981618983938, -0.0073704305059169434),
    *(0.082145886573102895, -0.59926452931894468, 2.5501640398773005, -5.1677127800499696, 3.1415926535897932),
)
COS_64 = (
    *(4.1495643539425855e-6, -0.00010456655338748738, 0.0019295562724817131, -0.025806888737002203),
    *(0.23533063012953285, -1.3352627688434471, 4.058712126416497, -4.9348022005446768, 1.0),
)
TABLES_32 = tuple(tuple(map(np.float32, table)) for table in (LOG_32, SIN_32, COS_32))
TABLES_64 = tuple(tuple(map(np.float64, table)) for table in (LOG_64, SIN_64, COS_64))


def chunk(dtype: np.dtype) -> int:
    """Return how many normals the counters that go side by side make."""
    return 16 * LANES // dtype.itemsize


def fill_normals(out: np.ndarray, copies: int, key: np.ndarray, chunks: range, deviation: float) -> None:
    """Write some chunks of a key's normals, of a standard deviation, where they belong in an array.

    Parameters
    ----------
    out : (m, D) float32 or float64; the key's normals fill it row by row.
    copies : 1, or 2: they fill every other row, and the row after each is minus it.
    key : (4,) uint32
    chunks : numbers of successive chunks; normals that are beyond ``out`` are left out.
    """
    fill, tables = (_fill_32, TABLES_32) if out.dtype == np.float32 else (_fill_64, TABLES_64)
    words, normals = np.empty((4, LANES), np.uint32), np.empty((chunk(out.dtype) // LANES, LANES), out.dtype)
    fill(key, chunks.start, chunks.stop, out.dtype.type(deviation), *tables, words, normals, out, copies)


@_jit
def philox(
    key,  # (4,) uint32, the key's two words and the counters' high words
    number,  # counters number * LANES, ...
    words,  # (4, LANES) uint32, out
):
    for lane in range(LANES):
        counter = np.uint64(number) * np.uint64(LANES) + np.uint64(lane)
        a, b, c, d = counter & LOW, counter >> WORD, np.uint64(key[2]), np.uint64(key[3])
        k, l = np.uint64(key[0]), np.uint64(key[1])  # noqa: E741
        for _ in range(10):
            p, q = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
            a, b, c, d = (q >> WORD) ^ b ^ k, q & LOW, (p >> WORD) ^ d ^ l, p & LOW
            k, l = (k + WEYL[0]) & LOW, (l + WEYL[1]) & LOW  # noqa: E741
        words[0, lane], words[1, lane], words[2, lane], words[3, lane] = np.uint32(a), np.uint32(b), np.uint32(c), np.uint32(d)


@_jit
def _polynomial(coefficients, t):
    total = coefficients[0]
    for coefficient in coefficients[1:]:
        total = total * t + coefficient
    return total


@_jit
def _place(
    normals,  # (n,) float32 or float64
    first,  # number of normals[0] among those of its key
    out,  # (m, D) dtype of normals, out
    copies,  # 1 or 2
):
    D, done = out.shape[1], 0
    row, column = first // D * copies, first % D
    while done < len(normals) and row < len(out):
        n = min(D - column, len(normals) - done)
        run, own = normals[done : done + n], out[row, column : column + n]
        for i in range(n):
            own[i] = run[i]
        if copies == 2 and row + 1 < len(out):
            mirrored = out[row + 1, column : column + n]
            for i in range(n):
                mirrored[i] = -run[i]
        row, column, done = row + copies, 0, done + n


@_jit
def _fill_32(
    key,  # (4,) uint32
    number,  # of the first chunk
    stop,  # of the first chunk that is not to be made
    deviation,  # float32
    logs,  # polynomials
    sines,
    cosines,
    words,  # (4, LANES) uint32, overwritten
    normals,  # (4, LANES) float32, overwritten
    out,  # (m, D) float32, out
    copies,  # 1 or 2
):
    for chunk in range(number, stop):
        philox(key, chunk, words)
        for pair in range(0, 4, 2):
            _pairs_32(words[pair], words[pair + 1], deviation, logs, sines, cosines, normals[pair], normals[pair + 1])
        _place(normals.reshape(-1), chunk * normals.size, out, copies)


@_jit
def _fill_64(key, number, stop, deviation, logs, sines, cosines, words, normals, out, copies):
    for chunk in range(number, stop):
        philox(key, chunk, words)
        _pairs_64(words[0], words[1], words[2], words[3], deviation, logs, sines, cosines, normals[0], normals[1])
        _place(normals.reshape(-1), chunk * normals.size, out, copies)


@_jit
def _pairs_32(
    x,  # (LANES,) uint32, whose uniforms u = (x + 1/2) / 2**32, never 0, become radii
    y,  # (LANES,) uint32, become angles: the lowest bit is a sign, the others a half turn
    deviation,
    logs,
    sines,
    cosines,
    first,  # (LANES,) float32, out
    second,  # (LANES,) float32, out
):
    half, one, two, log_4 = np.float32(0.5), np.float32(1), np.float32(2), np.float32(-2 * log(2))
    unit, turn_unit = np.float32(2.0**-32), np.float32(2.0**-31)
    for lane in range(LANES):
        # u = (1 + f) * 2**exponent with 1 + f between 1/√2 and √2. Near 1, f is made of 1 - u, so that nothing cancels.
        u = np.float32((np.float32(x[lane]) + half) * unit)
        rest = (np.float32(np.uint32(x[lane] ^ ALL_ONES)) + half) * unit
        bits = u.view(np.int32)
        exponent = np.int32(np.int32(bits - np.int32(0x3F3504F3)) >> np.int32(23))
        f = -rest if exponent == 0 else np.int32(bits - (exponent << np.int32(23))).view(np.float32) - one
        s = f / (f + two)
        r = np.float32(sqrt(s * _polynomial(logs, s * s) + np.float32(exponent) * log_4)) * deviation
        r = r if y[lane] & np.uint32(1) else -r
        a = (np.float32(np.int32(np.int32(y[lane]) >> np.int32(1))) + half) * turn_unit
        first[lane] = r * _polynomial(cosines, a * a)
        second[lane] = r * (a * _polynomial(sines, a * a))


@_jit
def _pairs_64(x, x_low, y, y_low, deviation, logs, sines, cosines, first, second):
    unit, unit_2, turn_unit_2, log_4 = 2.0**-32, 2.0**-64, 2.0**-63, -2 * log(2)
    for lane in range(LANES):
        u = np.float64(np.float64(x[lane]) * unit + (np.float64(x_low[lane]) + 0.5) * unit_2)
        rest = np.float64(np.uint32(x[lane] ^ ALL_ONES)) * unit + (np.float64(np.uint32(x_low[lane] ^ ALL_ONES)) + 0.5) * unit_2
        bits = u.view(np.int64)
        exponent = (bits - np.int64(0x3FE6A09E667F3BCD)) >> 52
        f = -rest if exponent == 0 else np.int64(bits - (exponent << 52)).view(np.float64) - 1.0
        s = f / (f + 2.0)
        r = sqrt(s * _polynomial(logs, s * s) + np.float64(np.int32(exponent)) * log_4) * deviation
        r = r if y_low[lane] & np.uint32(1) else -r
        a = np.float64(np.int32(y[lane])) * unit + (np.float64(np.uint32(y_low[lane] >> np.uint32(1))) + 0.5) * turn_unit_2
        first[lane] = r * _polynomial(cosines, a * a)
        second[lane] = r * (a * _polynomial(sines, a * a))
