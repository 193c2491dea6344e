"""Normals of a counter: Philox's known answers, every operation against exact ones, and the distribution they have."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from nc_fast import normals
from nc_fast.candidates import gaussian

ALPHA = 1e-6  # a correct generator fails a test of this level once in a million keys; the keys are fixed
KEY = np.array([3, 1, 4, 1], np.uint32)
N = 10_000_000


def drawn(n, dtype, key=KEY):
    out = np.empty((1, n), dtype)
    normals.fill_normals(out, 1, key, range(-(-n // normals.chunk(out.dtype))), 1.0)
    return out[0]


@pytest.fixture(scope="module", params=[np.float32, np.float64])
def sample(request):
    return drawn(N, request.param)


@pytest.mark.parametrize(  # of Random123, the paper's code: counter, key, words
    ("counter", "key", "words"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers(counter, key, words):
    c, k = ([int(word, 16) for word in text.split()] for text in (counter, key))
    number, lane = divmod(c[0] + (c[1] << 32), normals.LANES)
    found = np.empty((4, normals.LANES), np.uint32)
    normals.philox(np.array([*k, *c[2:]], np.uint32), number, found)
    assert " ".join(f"{word:08x}" for word in found[:, lane]) == words


def words_to_look_at(rng):
    """Return words (2, LANES) uint32: the smallest, the largest, those around where the logarithm changes over, and others."""
    special = [0, 1, 2, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1, *range(0xB504F333 - 3, 0xB504F333 + 4), *(1 << np.arange(2, 31))]
    words = rng.integers(1 << 32, size=(2, normals.LANES), dtype=np.uint32)
    words[0, : len(special)] = special
    words[1, -len(special) :] = special
    return words


def exact(x, y, bits):
    """Return the two normals of words of that many bits, in long doubles."""
    wide = [np.array([int(v) for v in word], object) for word in (x, y)]
    u = np.array([np.longdouble(2 * v + 1) / np.longdouble(2 ** (bits + 1)) for v in wide[0]])
    rest = np.array([np.longdouble(2 ** (bits + 1) - 2 * v - 1) / np.longdouble(2 ** (bits + 1)) for v in wide[0]])
    r = np.sqrt(-2 * np.where(u < 0.5, np.log(u), np.log1p(-np.minimum(rest, 0.5))))
    turns = np.array([np.longdouble(2 * ((v >> 1) - (v >> (bits - 1) << (bits - 1))) + 1) / np.longdouble(2**bits) for v in wide[1]])
    r = np.where([v & 1 for v in wide[1]], r, -r)
    pi = np.longdouble("3.14159265358979323846264338327950288")
    return r * np.cos(pi * turns), r * np.sin(pi * turns), np.abs(r)


@pytest.mark.skipif(np.finfo(np.longdouble).eps > 1e-18, reason="long doubles are doubles here")
def test_every_operation_is_as_good_as_its_precision(rng):
    for _ in range(20):
        x, y, x_low, y_low = np.concatenate([words_to_look_at(rng), words_to_look_at(rng)])
        for dtype in (np.float32, np.float64):
            first, second = np.empty((2, normals.LANES), dtype)
            if dtype == np.float32:
                normals._pairs_32(x, y, np.float32(1), *normals.TABLES_32, first, second)
                *wanted, r = exact(x, y, 32)
            else:
                normals._pairs_64(x, x_low, y, y_low, 1.0, *normals.TABLES_64, first, second)
                x_64, y_64 = ((high.astype(np.uint64) << np.uint64(32)) | low for high, low in ((x, x_low), (y, y_low)))
                *wanted, r = exact(x_64, y_64, 64)
            for found, right in zip((first, second), wanted, strict=True):
                assert (np.abs(found - right) <= 3 * np.finfo(dtype).eps * r).all()


def test_moments(sample):
    z = sample.astype(np.float64)
    for power, mean, square in ((1, 0, 1), (2, 1, 3), (3, 0, 15), (4, 3, 105), (5, 0, 945), (6, 15, 10395)):
        assert abs((z**power).mean() - mean) < 5 * np.sqrt((square - mean**2) / N), power


def test_every_place_of_a_chunk_has_the_distribution(sample):
    stats = pytest.importorskip("scipy.stats")
    assert stats.kstest(sample, "norm").pvalue > ALPHA
    width = normals.chunk(sample.dtype)
    z = sample[: N // width * width].reshape(-1, width // normals.LANES, normals.LANES)
    for place in range(z.shape[1]):  # cosines and sines, of the first and of the second words
        assert stats.kstest(z[:, place].ravel(), "norm").pvalue > ALPHA
    lanes = z.mean(axis=(0, 1), dtype=np.float64) * np.sqrt(z.size / normals.LANES)
    assert np.abs(lanes).max() < 5.5


@pytest.mark.parametrize("beyond", [3, 4, 5])
def test_tails(sample, beyond):
    stats = pytest.importorskip("scipy.stats")
    for count in ((sample > beyond).sum(), (sample < -beyond).sum()):
        assert stats.binomtest(int(count), N, stats.norm.sf(beyond)).pvalue > ALPHA


def test_the_furthest_normals_there_are():
    words = np.zeros(normals.LANES, np.uint32)
    for fill, given, tables, radius in (
        (normals._pairs_32, 1, normals.TABLES_32, np.sqrt(66 * np.log(2))),
        (normals._pairs_64, 2, normals.TABLES_64, np.sqrt(130 * np.log(2))),
    ):
        first, second = np.empty((2, normals.LANES), tables[0][0].dtype)
        fill(*[words] * 2 * given, first.dtype.type(1), *tables, first, second)
        np.testing.assert_allclose(np.abs(first), radius, rtol=1e-6)  # 6.8 and 9.5 standard deviations


def test_neighbours_lanes_and_keys_are_independent(sample):
    bound = 5.5 / np.sqrt(N)
    z = sample.astype(np.float64)
    other = drawn(N, sample.dtype, KEY + np.array([1, 0, 0, 0], np.uint32))
    for function in (lambda z: z, lambda z: z**2 - 1, np.sign):
        v = function(z)
        scale = (v**2).mean()
        for lag in (1, 2, 4, 8, 16, 255, 256, 257, 512, 768, 1024):
            assert abs((v[lag:] * v[:-lag]).mean()) < bound * scale, lag
        assert abs((v * function(other)).mean()) < bound * scale


def test_the_bits_are_the_same_on_another_processor(tmp_path):
    """Compiled for one without AVX and fused multiply-adds, in another process."""
    script = (
        "import hashlib, numpy as np\nfrom nc_fast.candidates import gaussian\n"
        "print(*[hashlib.sha256(gaussian(37, 3001, 8, dtype=d).T).hexdigest() for d in (np.float32, np.float64)])"
    )
    plain = {**os.environ, "NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_CACHE_DIR": str(tmp_path)}
    found = subprocess.run([sys.executable, "-c", script], env=plain, capture_output=True, text=True, check=True).stdout.split()
    assert found == [hashlib.sha256(gaussian(37, 3001, 8, dtype=d).T).hexdigest() for d in (np.float32, np.float64)]
