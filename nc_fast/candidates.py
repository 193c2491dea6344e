"""Pools of candidate neurons to pick from: Gaussian weights, or differences of two samples.

Both draw a pool of 100,000 neurons of 784 weights in a fraction of a second: blocks of candidates on all threads, with the same
bits whatever their number. W (D, M) is returned with a neuron's weights side by side in memory (the transpose of a C-contiguous
array), the form in which it is made; every function of this library takes any layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import Any

import numpy as np

from nc_fast.inputs import checks
from nc_fast.inputs.arrays import Array, as_numpy, is_tensor, like
from nc_fast.inputs.labels import IGNORE_INDEX
from nc_fast.inputs.left_out import LeftOut
from nc_fast.inputs.means import feature_sums
from nc_fast.inputs.slices import dtype_of
from nc_fast.inputs.sources import Block, Slices, block_rows, labelled
from nc_fast.runtime.threads import ordered_map, single_threaded_blas, thread_count

__all__ = ["data_pairs", "gaussian"]

WHERE = ("midway", "center")
BLOCK_ELEMENTS = 1 << 16  # weights made at once: with the samples they come from still in a core's cache
SHARES = 4  # of the chunks of normals for every thread, so that all end at about the same time
LEAST_CHUNKS = 256  # made at once: 0.2 ms or more, many times what handing them to a thread takes
PAIRS = 4  # drawn for every one that is kept, where the targets are floats
LEAST_PAIRS = 4096  # drawn at least, so that the few that are kept have the distribution too


def gaussian(D: int, M: int, rng: int | np.random.Generator = 0, *, dtype: object = np.float32, antithetic: bool = False) -> np.ndarray:
    """Return M candidates with independent weights from N(0, 2/D), the initialization of He et al. for relu.

    Parameters
    ----------
    D, M : int, at least 1
        Features and candidates.
    rng : int or numpy.random.Generator, default 0
        A seed; or a generator, which the call advances, so that the next call draws other weights.
    dtype : float32 (default) or float64
    antithetic : bool, default False
        Whether candidates come in pairs, w in column 2i and -w in column 2i + 1; of an odd M the last has no partner. One product
        scores both, for (-w)·x is -(w·x): :func:`nc_fast.class_moments` and :func:`nc_fast.campaign` recognise a W whose columns
        come in such pairs, and multiply only half of them.

    Returns
    -------
    (D, M) array of that dtype
        With one seed, a smaller pool is the first candidates of a larger one. The bits depend on neither the number of threads nor
        the processor.

    Raises
    ------
    TypeError, ValueError
        For arguments that are not as above.

    Notes
    -----
    Source: He et al., "Delving deep into rectifiers", ICCV 2015; Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import nc_fast
    >>> W = nc_fast.candidates.gaussian(784, 1000)
    >>> W.shape, W.dtype.name, round(float(W.var() * 784), 1)
    ((784, 1000), 'float32', 2.0)
    """
    D, M = checks.whole("D", D, 1), checks.whole("M", M, 1)
    generator, kind = checks.generator("rng", rng), _float_dtype(dtype)
    copies = 2 if checks.flag("antithetic", antithetic) else 1
    from nc_fast.normals import chunk, fill_normals  # takes numba along

    key = generator.integers(1 << 32, size=4).astype(np.uint32)
    W = np.empty((M, D), kind)
    rows = W if copies == 2 else W.reshape(1, -1)
    n_chunks = -(-(-(-M // copies) * D) // chunk(kind))
    step = max(LEAST_CHUNKS, -(-n_chunks // (SHARES * thread_count())))

    def fill(first: int, _: object) -> None:
        fill_normals(rows, copies, key, range(first, min(first + step, n_chunks)), np.sqrt(2 / D))

    for _ in ordered_map(fill, range(0, n_chunks, step), thread_count() if step < n_chunks else 1):
        pass
    return W.T


@single_threaded_blas
def data_pairs(
    X: Array,
    y: Array,
    M: int,
    rng: int | np.random.Generator = 0,
    *,
    where: str = "midway",
    ignore_index: int | str | Sequence[int | str] | None = IGNORE_INDEX,
) -> tuple[Array, Array]:
    """Return M candidates that each point from one sample to another: ``w = (x2 - x1) / |x2 - x1|^2``, and their biases.

    With labels, every pair of samples of different classes is equally likely. With float targets, a pair is drawn with
    probability proportional to ``|y2 - y1| / |x2 - x1|``. Samples that are alike never make a candidate.

    Parameters
    ----------
    X : (N, D) floating, integer or boolean
        Samples as the layer sees them: what :func:`nc_fast.campaign` takes, torch tensors, memory maps and scipy.sparse
        included. Of those that are not in memory, the drawn samples alone are held there.
    y : (N,) or (N, 1) integer, boolean or string labels; or (N,) or (N, T) float targets
    M : int, at least 1
        Candidates; may be more than there are pairs, which then repeat.
    rng : int or numpy.random.Generator, default 0
        A seed; or a generator, which the call advances.
    where : "midway" or "center", default "midway"
        "midway": w·x + bias is 0 midway between the two samples, as fixed features want it. "center": its mean over all of X
        is 0, as networks that are trained afterwards want it.
    ignore_index : label, sequence of labels or None, default -100
        As in :func:`nc_fast.campaign`: samples of these labels are left out.

    Returns
    -------
    W : (D, M) float32, or float64 where X is
        In the library and on the device of X, as is the bias.
    bias : (M,)

    Raises
    ------
    TypeError
        For arguments of the wrong kind.
    ValueError
        For wrong values; fewer than two classes or distinct targets, no two samples of different classes that differ; samples
        so near or far that their squared distance overflows or vanishes in the dtype of W.

    Notes
    -----
    Float targets: four times as many pairs as candidates (at least 4096) are drawn uniformly among those with different
    targets; of these, M are kept by systematic resampling, so that a pair of weight v among weights of sum V is kept M v / V
    times on average, rounded up or down.

    Source: Bolager et al., "Sampling weights of deep neural networks", NeurIPS 2023, with the kink moved.

    Examples
    --------
    >>> import numpy as np, nc_fast
    >>> X, y = np.array([[0.0, 0.0], [0.0, 2.0], [0.0, 2.0]]), ["a", "b", "b"]
    >>> W, bias = nc_fast.candidates.data_pairs(X, y, 4)
    >>> np.abs(W).tolist(), np.abs(np.array([0.0, 1.0]) @ W + bias).max().tolist()
    ([[0.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.5, 0.5]], 0.0)
    """
    midway = checks.choice("where", where, WHERE) == "midway"
    M, generator = checks.whole("M", M, 1), checks.generator("rng", rng)
    source = labelled(X, y, None, LeftOut(checks.ignore_index(ignore_index)), half=False, targets=True)
    targets = source.y.ndim == 2
    codes = _row_numbers([source.y]) if targets else source.y
    if not codes.any():
        raise ValueError(f"y: expected {'targets' if targets else 'labels'} of at least two values, got the same for all samples")
    N, D = source.size, int(source.X.shape[1])
    name = checks.dtype_name(source.X) if isinstance(source, Block) else dtype_of(source.X).name
    dtype = np.dtype(np.float64 if name == "float64" else np.float32)

    pairs = _pairs(generator, codes, np.arange(N), max(PAIRS * M, LEAST_PAIRS) if targets else M)
    rows, places = _rows(source, pairs, dtype)
    squared = _squared_distances(rows, places, dtype)
    if (alike := squared == 0).any():  # draw again, where no two rows are alike
        numbers = _row_numbers(as_numpy(block.X).astype(dtype) for block in source.blocks(0, block_rows(D)))
        pairs[:, alike] = _pairs(generator, codes, numbers, int(alike.sum()))
        rows, places = _rows(source, pairs, dtype)
        squared = _squared_distances(rows, places, dtype)
    if not np.finfo(squared.dtype).tiny <= squared.min() <= squared.max() < np.inf:
        got = f"got squared distances from {squared.min():.3g} to {squared.max():.3g}"
        raise ValueError(f"X: expected samples whose squared distances {dtype} can hold, {got}; scale them")
    if targets:
        places = places[:, _resampled(generator, _target_distances(source.y, pairs) / np.sqrt(squared), M)]

    mean = None if midway else feature_sums(source, D)[:-1] / N
    W, bias = np.empty((M, D), dtype), np.empty(M, dtype)

    def fill(block: slice, _: object) -> None:
        w = W[block]
        w[...] = _differences(rows, places[:, block], dtype)
        w /= np.einsum("ij,ij->i", w, w, dtype=np.float64).astype(dtype)[:, None]
        if mean is None:
            bias[block] = -np.einsum("ij,ij->i", w, rows.take(places[0, block], axis=0), dtype=np.float64) - 0.5  # w·(x2 - x1) is 1
        else:
            bias[block] = -(w.astype(np.float64) @ mean)

    for _ in ordered_map(fill, _blocks(M, D), thread_count()):
        pass
    template = source.X if isinstance(source, Block) else W
    return like(template, W.T), like(template, bias)


def _float_dtype(value: Any) -> np.dtype[Any]:
    with suppress(TypeError):
        dtype: np.dtype[Any] = np.dtype(value)
        if value is not None and dtype in (np.float32, np.float64):
            return dtype
    raise TypeError(f"dtype: expected float32 or float64, got {value!r}")


def _blocks(M: int, D: int) -> list[slice]:
    step = max(1, BLOCK_ELEMENTS // D)
    return [slice(first, min(first + step, M)) for first in range(0, M, step)]


def _pairs(generator: np.random.Generator, codes: np.ndarray, rows: np.ndarray, size: int) -> np.ndarray:
    """Draw pairs (2, size) uniformly among all pairs of samples with different codes and different rows, none of them in vain.

    The first of a pair is drawn by how many partners it has, the second by its number u among these partners: the samples,
    sorted by code, without the first one's code and without the samples of its row.
    """
    N = len(codes)
    n_code, n_row = np.bincount(codes), np.bincount(rows)
    _, both, n_both = np.unique(codes * len(n_row) + rows, return_inverse=True, return_counts=True)
    n_partners = N - n_code[codes] - n_row[rows] + n_both[both]
    ends = np.cumsum(n_partners)
    if not ends[-1]:
        raise ValueError("X: expected two samples that differ among those of different classes or targets, got none")
    first = np.searchsorted(ends, generator.integers(ends[-1], size=size), side="right")
    code, row = codes[first], rows[first]

    by_code = np.argsort(codes, kind="stable")
    place = np.empty_like(by_code)
    place[by_code] = np.arange(N)
    alike = np.sort(rows * N + place)  # the samples' places, row by row
    row_starts = np.cumsum(n_row) - n_row
    u = generator.integers(n_partners[first])
    # Without those of its row, the samples of the first one's code stand together from here on:
    start = (np.cumsum(n_code) - n_code)[code]
    start -= np.searchsorted(alike, row * N + start) - row_starts[row]
    u += np.where(u >= start, n_code[code] - n_both[both[first]], 0)
    # Number u of those that are not in the row is at place u plus how many of the row come before it.
    gaps = alike - (np.arange(N) - np.repeat(row_starts, n_row))
    u += np.searchsorted(gaps, row * N + u, side="right") - row_starts[row]
    return np.stack([first, by_code[u]])


def _row_numbers(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Number rows (N,) int64 so that those and only those that are equal have the same number."""
    numbers: dict[bytes, int] = {}
    digests = (blake2b(row, digest_size=16).digest() for block in blocks for row in np.ascontiguousarray(block + 0))
    return np.array([numbers.setdefault(digest, len(numbers)) for digest in digests])


def _rows(source: Block | Slices, pairs: np.ndarray, dtype: np.dtype[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return an array in memory, rows contiguous, that holds the samples in pairs, and the pairs' places in it (2, n)."""
    X = source.X
    if isinstance(source, Block) and not (is_tensor(X) and X.device.type != "cpu") and (X := as_numpy(X)).flags.c_contiguous:
        return X, pairs
    wanted, places = np.unique(pairs, return_inverse=True)
    held, first = np.empty((len(wanted), X.shape[1]), dtype), 0
    for block in source.blocks(0, block_rows(X.shape[1])):
        own = slice(*np.searchsorted(wanted, [first, first + block.size]))
        held[own] = as_numpy(block.X[like(block.X, wanted[own] - first)])
        first += block.size
    return held, places.reshape(pairs.shape)


def _differences(rows: np.ndarray, pairs: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    first, second = rows.take(pairs[0], axis=0), rows.take(pairs[1], axis=0)
    differences: np.ndarray = np.subtract(second, first, dtype=dtype, casting="same_kind")  # integers are converted first
    return differences


def _squared_distances(rows: np.ndarray, places: np.ndarray, dtype: np.dtype[Any]) -> np.ndarray:
    """Return the squared distance of every pair, (n,)."""
    squared = np.empty(places.shape[1], dtype)

    def fill(block: slice, _: object) -> None:
        differences = _differences(rows, places[:, block], dtype)
        np.einsum("ij,ij->i", differences, differences, out=squared[block])

    for _ in ordered_map(fill, _blocks(places.shape[1], rows.shape[1]), thread_count()):
        pass
    return squared


def _target_distances(y: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Return the distance of the targets of every pair, (n,), up to a common factor."""
    scaled = y / np.abs(y).max()  # so that no square vanishes
    distances: np.ndarray = np.linalg.norm(scaled[pairs[1]] - scaled[pairs[0]], axis=1)
    return distances


def _resampled(generator: np.random.Generator, weights: np.ndarray, n: int) -> np.ndarray:
    """Return n places, each as often as its share of the weights says, rounded up or down at random (systematic resampling)."""
    ends = np.cumsum(weights)
    points = (generator.random() + np.arange(n)) * (ends[-1] / n)
    kept: np.ndarray = np.searchsorted(ends, points, side="right").clip(max=len(ends) - 1)
    return kept
