"""The picks of the GPU kernel, interpreted, against the float64 reference."""

import numpy as np
import pytest
from gpu_cases import check_picks, picks_of, torch

from nc_fast.backends.gpu import select, spans, windows
from nc_fast.backends.reference.select import select as reference_select

SCORES = {
    "mixed": lambda rng, M: rng.normal(size=M),
    "positive": lambda rng, M: rng.uniform(0.5, 1, M),
    "negative": lambda rng, M: -rng.uniform(0.5, 1, M),
    "equal": lambda _, M: np.ones(M),
    "equal and negative": lambda _, M: -np.ones(M),
    "zero": lambda _, M: np.zeros(M),
}


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 16 candidates: the bound is at work, and the interpreter is quick."""
    monkeypatch.setattr(windows, "SMALLEST_WINDOW", 16)
    monkeypatch.setattr(windows, "LARGEST_WINDOW", 16)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("D", [4, 24])
def test_picks_with_ties_duplicates_and_exhausted_rank(rng, small_windows, D, scores):
    M = 70
    W, score = rng.normal(size=(D, M)), SCORES[scores](rng, M)
    W[:, 30], W[:, 31], W[:, 60] = W[:, 3], 3 * W[:, 3], -W[:, 50]
    score[[30, 31]], score[60] = score[3], score[50]
    check_picks(W, score, rng.integers(-1, 3, M), np.array([7, 3, 9]))
    check_picks(W.astype(np.float32), score, np.zeros(M, np.int64), np.array([27]))


@pytest.mark.parametrize("scores", ["mixed", "equal"])
def test_picks_from_windows_that_hold_the_whole_pool(rng, scores):
    check_picks(rng.normal(size=(9, 50)), SCORES[scores](rng, 50), np.zeros(50, np.int64), np.array([20]))


@pytest.mark.parametrize("seed", range(12))
def test_picks_of_small_integers(small_windows, seed):
    rng = np.random.default_rng(seed)
    D, M, P = rng.integers(2, 6), rng.integers(20, 60), rng.integers(1, 4)
    W, score = rng.integers(-1, 2, (D, M)).astype(float), rng.integers(-2, 3, M).astype(float)
    pool = rng.integers(-1, P, M)
    check_picks(W, score, pool, np.array([rng.integers(0, (pool == p).sum() + 1) for p in range(P)]))


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_picks_among_nearly_parallel_vectors(rng, small_windows, noise):
    W = rng.normal(size=(12, 1)) + noise * rng.normal(size=(12, 60))
    check_picks(W, rng.uniform(0.5, 1, 60), np.zeros(60, np.int64), np.array([20]))


def test_picks_of_vectors_of_all_sizes(rng, small_windows):
    W = rng.normal(size=(9, 80)) * 10.0 ** rng.integers(-150, 150, 80)
    check_picks(W, rng.normal(size=80), np.zeros(80, np.int64), np.array([20]))


def test_picks_in_batches_and_chunks(rng, monkeypatch, small_windows):
    monkeypatch.setattr(windows, "BATCH_BYTES", 1)
    monkeypatch.setattr(spans, "BATCH_BYTES", 8 * 20 * 17)
    W, score = rng.normal(size=(20, 100)), rng.uniform(0.9, 1, 100)
    check_picks(W, score, rng.integers(0, 2, 100), np.array([15, 18]))


def test_picks_from_no_pool_and_for_no_quota():
    check_picks(np.eye(3), np.ones(3), np.array([-1, -1, -1]), np.array([0]))
    check_picks(np.eye(3), np.ones(3), np.array([0, 1, 1]), np.array([0, 2]))


def test_selection_reports_and_works_on_strided_halves_in_inference_mode(rng):
    W = torch.from_numpy(rng.normal(size=(60, 8)).astype(np.float16)).T
    score, pool, quota = rng.normal(size=60), np.zeros(60, np.int64), np.array([7])
    calls = []
    with torch.inference_mode():
        found = picks_of(W, score, pool, quota, report=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (7, 7)
    np.testing.assert_array_equal(found.indices, reference_select(W.numpy(), score, pool, quota).indices)


def test_most_picks_need_few_rounds(rng):
    calls = []
    given = rng.normal(size=(64, 500)), rng.normal(size=500), np.zeros(500, np.int64), np.array([40])
    picks_of(*given, report=lambda *now: calls.append(now))
    assert len(calls) <= 4


class _Greedy:
    """The window's kernel with some of its arguments changed."""

    names = ("Gram", "Squared", "Score", "Index", "Valid", "Bound", "BoundIndex", "Stale", "Need")

    def __init__(self, kernel, **changes):
        self._kernel, self._changes = kernel, changes

    def __getitem__(self, grid):
        def launch(*args, **options):
            changed = [self._changes.get(name, lambda value: value)(arg) for name, arg in zip(self.names, args, strict=False)]
            self._kernel[grid](*changed, *args[len(changed) :], **options)

        return launch


def random_pool(rng):
    """Two of every vector, scores of both signs and close together, more picks than features."""
    W, score = rng.normal(size=(8, 44)), rng.uniform(0.9, 1, 44) * np.where(np.arange(44) % 4, 1, -1)
    W[:, 22:], score[22:] = W[:, :22], score[:22]
    return W, score, np.zeros(44, np.int64), np.array([38])


def low_rank(rng):
    """The rank is exhausted long before there are as many picks as features."""
    W, *others = random_pool(rng)
    W[5:] = 0
    return W, *others


def tie_across_the_border(_):
    """Candidate 50, the last in the window of 16, ties with candidate 10 outside; the lower index must win."""
    score = np.zeros(120)
    score[100:115], score[50], score[10] = 2, 1 + 5e-10, 1
    return np.eye(120), score, np.zeros(120, np.int64), np.array([17])


LIES_ABOUT_PICKS = {
    "ties go to the highest index": (random_pool, {"Index": lambda index: 1000 - index}),
    "the bound is ignored": (random_pool, {"Bound": lambda bound: torch.full_like(bound, -torch.inf)}),
    "outside counts as after": (tie_across_the_border, {"BoundIndex": lambda index: torch.full_like(index, 10**6)}),
    "bounds are taken for gains": (low_rank, {"Stale": lambda stale: torch.full_like(stale, torch.nan)}),
    "the span is ignored": (random_pool, {"Gram": lambda gram: gram * 0}),
    "scores are magnitudes": (random_pool, {"Score": torch.abs}),
}


@pytest.mark.parametrize("lie", LIES_ABOUT_PICKS)
def test_the_comparer_rejects_wrong_picks(rng, monkeypatch, small_windows, lie):
    pool, change = LIES_ABOUT_PICKS[lie]
    given = pool(rng)
    check_picks(*given)
    monkeypatch.setattr(select, "window_greedy", _Greedy(select.window_greedy, **change))
    with pytest.raises(AssertionError):
        check_picks(*given)


@pytest.mark.parametrize("n", [24, 32])
def test_vectors_that_depend_on_each_other_ever_more(rng, n):
    """Kahan's matrix: no ratio shrinks much at a pick, yet without ``largest_growth`` gains of late picks lose half of their digits."""
    sine = 0.03 ** (1 / n)
    R = np.diag(sine ** np.arange(n)) @ (np.eye(n) - (1 - sine**2) ** 0.5 * np.triu(np.ones((n, n)), 1))
    W = np.linalg.qr(rng.normal(size=(n, n)))[0] @ (R / np.linalg.norm(R, axis=0))
    check_picks(W, np.geomspace(1e6, 1e3, n), np.zeros(n, np.int64), np.array([n]))
