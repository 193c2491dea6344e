"""One setup factory per stage: size -> its contenders, for time and for memory.

A contender is a call without arguments and a check of its result; what it was bound to is made once per size and shared.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache, partial
from typing import Any

import numpy as np
import original
import scipy.linalg
import scipy.stats
import torch
from environment import blas_threads
from inputs import inputs
from sizes import Size
from threadpoolctl import threadpool_limits

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.runtime.threads import single_threaded_blas
from nc_fast.screening import surrogates
from nc_fast.testing import assert_moments_match

SCORE_TOLERANCE = 1e-5  # the original sums up to 60000 float32 numbers one by one; scores are entries of a unit vector
WELL_DEFINED_AGREEMENT = 0.99  # share of equal picks where all scores are positive, float32 against float64
CHECKED_COLUMNS = 61
LEAST_RANK_CORRELATION = 0.95  # of a surrogate's scores with the exact ones
PEAK_SIDE, PEAK_PRODUCTS = 1024, 8


@dataclass(frozen=True)
class Task:
    """A call ready to be timed.

    Attributes
    ----------
    run : the call, arguments bound
    check : raises when the result is wrong; returns what to note beside the time
    notes : what the report computes rates from
    """

    run: Callable[[], Any]
    check: Callable[[Any], dict[str, Any]] = lambda _: {}
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Contender:
    """One of those compared at every size of a stage.

    Attributes
    ----------
    prepare : size -> task, outside the timing
    slow : whether it takes many times as long as the fastest: one round at large sizes
    baseline : whether the stage's ratios are to this one
    """

    prepare: Callable[[Size], Task]
    slow: bool = False
    baseline: bool = False


def our_moments(size: Size, backend: str, activation: str = "relu", as_stored: bool = False) -> Task:
    given = inputs(size)
    X = given.X_bytes if as_stored else given.X

    def check(found: nc_fast.ClassMoments) -> dict[str, Any]:
        some = np.unique(np.linspace(0, size.M - 1, CHECKED_COLUMNS).astype(np.int64))
        part = nc_fast.ClassMoments(found.classes, found.count, found.mean[:, some], found.m2[:, some])
        assert_moments_match(part, given.W[:, some], X, np.searchsorted(found.classes, given.y), activation=activation)
        return {}

    run = partial(nc_fast.class_moments, given.W, X, given.y, backend=backend, activation=activation)
    return Task(run, check, {"flops": product_flops(size)})


def surrogate_moments(size: Size, estimate: Callable[..., nc_fast.ClassMoments]) -> Task:
    given = inputs(size)
    classes, codes = np.unique(given.y, return_inverse=True)

    def check(found: nc_fast.ClassMoments) -> dict[str, Any]:
        scores = (nc_fast.ib_scores(moments).score for moments in (found, exact_moments(size)))
        correlation = float(scipy.stats.spearmanr(*scores).statistic)
        assert correlation > LEAST_RANK_CORRELATION, f"rank correlation {correlation} with the exact scores"
        return {"correlation": correlation}

    return Task(partial(estimate, given.W, given.X, codes, classes), check)


def mixture(W: np.ndarray, X: np.ndarray, codes: np.ndarray, classes: np.ndarray) -> nc_fast.ClassMoments:
    def fit_and_ask() -> nc_fast.ClassMoments:
        return surrogates.fit_mixture(X, codes, classes, W.dtype, np.random.default_rng(0)).moments(W, np.zeros(W.shape[1]), "relu")

    return single_threaded_blas(fit_and_ask)()  # as screening does


def subsample(W: np.ndarray, X: np.ndarray, codes: np.ndarray, classes: np.ndarray) -> nc_fast.ClassMoments:
    rows = surrogates.stratified_rows(codes, len(classes), surrogates.SUBSAMPLE_ROWS, np.random.default_rng(0))
    return surrogates.rescaled(nc_fast.class_moments(W, X[rows], codes[rows]), np.bincount(codes))


def original_scores(size: Size, library: str) -> Task:
    given = inputs(size)

    def check(found: Any) -> dict[str, Any]:
        expected = nc_fast.ib_scores(exact_moments(size))
        np.testing.assert_allclose(np.asarray(found[0]), expected.score, atol=SCORE_TOLERANCE)
        return {}

    return Task(original_call("moments_scores", library, given.W, given.X, given.y), check, {"flops": product_flops(size)})


def bare_product(size: Size) -> Task:
    given = inputs(size)
    return Task(lambda: given.X @ given.W, notes={"flops": product_flops(size)})


def product_into_kept_memory(size: Size) -> Task:
    """The product without the page faults of a fresh (N, M) array at every call: the stricter baseline."""
    given = inputs(size)
    z = given.X @ given.W
    return Task(lambda: np.matmul(given.X, given.W, out=z), notes={"flops": product_flops(size)})


def gemm_peak(_: Size) -> Task:
    """A product in cache on every core at once, each with one BLAS thread: the rate that moments could reach at best."""
    threads = blas_threads()
    squares = np.random.default_rng(1).standard_normal((threads, 3, PEAK_SIDE, PEAK_SIDE), dtype=np.float32)

    def multiply(own: np.ndarray) -> None:
        for _ in range(PEAK_PRODUCTS):
            np.matmul(own[0], own[1], out=own[2])

    def run() -> None:
        with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
            list(pool.map(multiply, squares))

    return Task(run, notes={"flops": 2 * PEAK_SIDE**3 * PEAK_PRODUCTS * threads, "other_work": True})


def our_selection(size: Size, backend: str, layout: Callable[[np.ndarray], np.ndarray] = np.ascontiguousarray) -> Task:
    score, group = scored(size)
    run = partial(nc_fast.select, layout(inputs(size).W), score, size.k, groups=group, backend=backend)
    return Task(run, partial(same_picks, expected_picks(size), k=size.k))


def original_selection(size: Size, library: str, projection: str) -> Task:
    score, group = scored(size)
    run = original_call("select", library, inputs(size).W, score.astype(np.float32), group, size.k, projection)
    return Task(run, partial(float32_picks, expected_picks(size), size))


def qr_selection(size: Size) -> Task:
    """The first pivots of each group's QR decomposition with column pivoting, columns scaled to their scores."""
    score, group = scored(size)
    W, score = inputs(size).W, score.astype(np.float32)
    quota = nc_fast.share_quota(np.bincount(group), size.k)

    def run() -> np.ndarray:
        picks = []
        for g, n in enumerate(quota):
            members = np.flatnonzero(group == g)
            columns = W[:, members] * (score[members] / np.linalg.norm(W[:, members], axis=0))
            pivots = scipy.linalg.qr(columns, mode="r", pivoting=True, overwrite_a=True, check_finite=False)[1]
            picks.append(members[pivots[:n]])
        return np.concatenate(picks)

    return Task(run, partial(float32_picks, expected_picks(size), size))


def read_weights(size: Size) -> Task:
    """W read once on all cores: NumPy's maximum is vectorised and waits only for memory."""
    W, threads = inputs(size).W, blas_threads()

    def run() -> None:
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(np.max, np.array_split(W, threads)))

    return Task(run, notes={"bytes": W.nbytes})


def our_campaign(size: Size, backend: str, as_stored: bool = False) -> Task:
    given = inputs(size)
    run = partial(nc_fast.campaign, given.W, given.X_bytes if as_stored else given.X, given.y, size.k, backend=backend)
    return Task(run, (lambda _: {}) if as_stored else partial(same_picks, expected_campaign(size), k=size.k))


def original_campaign(size: Size, library: str, projection: str) -> Task:
    given = inputs(size)
    run = original_call("campaign", library, given.W, given.X, given.y, size.k, projection=projection)
    return Task(run, partial(note_agreement, expected_campaign(size)))


def original_call(stage: str, library: str, *arguments: Any, **more: Any) -> Callable[[], Any]:
    if library == "torch":
        arguments = tuple(torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in arguments)
    return partial(getattr(original, f"{stage}_{library.lower()}"), *arguments, **more)


def same_picks(expected: np.ndarray, found: Any, k: int) -> dict[str, Any]:
    np.testing.assert_array_equal(found.indices, expected)
    return {"agree": f"{k}/{k}"}


def float32_picks(expected: np.ndarray, size: Size, found: Any) -> dict[str, Any]:
    """Float32 greedy loops must agree with the reference but for a few near ties, where all scores are positive and differ."""
    agree = int((np.asarray(found) == expected).sum())
    assert agree >= WELL_DEFINED_AGREEMENT * size.k or size.scores != "spread", f"{agree} of {size.k} picks agree"
    return note_agreement(expected, found)


def note_agreement(expected: np.ndarray, found: Any) -> dict[str, Any]:
    return {"agree": f"{(np.asarray(found) == expected).sum()}/{len(expected)}"}


@lru_cache(maxsize=1)
def exact_moments(size: Size) -> nc_fast.ClassMoments:
    given = inputs(size)
    return nc_fast.class_moments(given.W, given.X, given.y)


def product_flops(size: Size) -> int:
    given = inputs(size)
    return 2 * given.X.shape[0] * given.W.size


@lru_cache(maxsize=1)
def scored(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Return score (M,) and group (M,) of a size's pool."""
    found = nc_fast.ib_scores(exact_moments(size), alpha=0.0 if size.scores == "label" else 1.0)
    return np.ones(size.M) if size.scores == "equal" else found.score, found.group


@lru_cache(maxsize=1)
def expected_picks(size: Size) -> np.ndarray:
    score, group = scored(size)
    return nc_fast.select(inputs(size).W, score, size.k, groups=group, backend="reference").indices


@lru_cache(maxsize=1)
def expected_campaign(size: Size) -> np.ndarray:
    given = inputs(size)
    return nc_fast.campaign(given.W, given.X, given.y, size.k, backend="reference").indices


LIBRARIES = ("NumPy", "torch")
MOMENTS = {
    "X @ W": Contender(bare_product, baseline=True),
    "X @ W into kept memory": Contender(product_into_kept_memory),
    "cpu": Contender(partial(our_moments, backend="cpu")),
    "cpu, uint8 X": Contender(partial(our_moments, backend="cpu", as_stored=True)),
    "reference": Contender(partial(our_moments, backend="reference"), slow=True),
    **{f"original, {library}": Contender(partial(original_scores, library=library), slow=True) for library in LIBRARIES},
    "peak GEMM rate": Contender(gemm_peak),
}
ACTIVATION = {
    name: Contender(partial(our_moments, backend="cpu", activation=name), baseline=name == "relu") for name in ("relu", *ACTIVATIONS)
}
SURROGATE = {
    "exact moments": Contender(partial(our_moments, backend="cpu"), baseline=True),
    "Gaussian mixture per class": Contender(partial(surrogate_moments, estimate=mixture)),
    "subsample of the samples": Contender(partial(surrogate_moments, estimate=subsample)),
}
LAYOUTS = {"C order": np.ascontiguousarray, "Fortran order": np.asfortranarray, "sliced": lambda W: np.repeat(W, 2, axis=1)[:, ::2]}
ORIGINALS = [(library, projection) for library in LIBRARIES for projection in original.PROJECTIONS]
SELECT = {
    **{
        f"cpu, {name}": Contender(partial(our_selection, backend="cpu", layout=layout), baseline=name == "C order")
        for name, layout in LAYOUTS.items()
    },
    "reference": Contender(partial(our_selection, backend="reference"), slow=True),
    "scipy QR, pivoting": Contender(qr_selection),
    **{
        f"original, {library}, {projection}": Contender(partial(original_selection, library=library, projection=projection), slow=True)
        for library, projection in ORIGINALS
    },
    "read W": Contender(read_weights),
}
CAMPAIGN = {
    "cpu": Contender(partial(our_campaign, backend="cpu"), baseline=True),
    "cpu, uint8 X": Contender(partial(our_campaign, backend="cpu", as_stored=True)),
    "reference": Contender(partial(our_campaign, backend="reference"), slow=True),
    **{
        f"original, {library}, {projection}": Contender(partial(original_campaign, library=library, projection=projection), slow=True)
        for library, projection in ORIGINALS
    },
}
