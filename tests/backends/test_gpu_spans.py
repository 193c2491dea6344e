"""Ratios that follow the spans by subtraction, the bases of those spans, and that a round costs as much for many groups as for few."""

import numpy as np
import pytest
from device_work import count_device_work
from gpu_cases import check_picks, picks_of, torch

from nc_fast.backends.gpu import groups, select, spans, windows
from nc_fast.backends.reference.select import select as reference_select


def negative_in_one_group(rng):
    W, score = rng.normal(size=(5, 90)), rng.uniform(0.5, 1, 90)
    score[30:60] *= -1
    return W, score, np.repeat(np.arange(3), 30), np.array([9, 9, 3])


def ties_beyond_the_window(rng):
    W = np.tile(rng.normal(size=(6, 5)), 16)  # 16 of each vector; the ties with the best reach far beyond a window of 16
    return W, np.repeat([2.0, 1.0], 40), np.zeros(80, np.int64), np.array([40])


def near_the_picks(rng):
    """Most candidates all but lie in the span of the first three picks, one in each plane of them does, exactly."""
    W = rng.normal(size=(10, 100))
    W[3:, :90] *= 10.0 ** -rng.integers(1, 9, 90)
    return W, rng.uniform(-0.2, 1, 100), rng.integers(0, 2, 100), np.array([25, 12])


def mostly_zero(rng):
    W = rng.normal(size=(4, 60)) * (np.arange(60) % 3 == 1)
    return W, rng.normal(size=60), np.arange(60) // 30, np.array([30, 11])


def exhausted_among_zero_scores(rng):
    return rng.integers(-1, 2, (3, 70)).astype(float), np.zeros(70), np.zeros(70, np.int64), np.array([20])


HARD = [negative_in_one_group, ties_beyond_the_window, near_the_picks, mostly_zero, exhausted_among_zero_scores]


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 16 candidates: the bound is at work, and the interpreter is quick."""
    monkeypatch.setattr(windows, "SMALLEST_WINDOW", 16)
    monkeypatch.setattr(windows, "LARGEST_WINDOW", 16)


@pytest.fixture
def hasty(monkeypatch):
    """No ratio is known any longer once a basis vector has touched it: rounds end without a pick, on bounds alone."""
    monkeypatch.setattr(spans, "TRUST", 1.0)


@pytest.fixture
def recomputed(monkeypatch):
    """The candidates whose ratios were computed from explicit residuals, outside of windows, a list that grows."""
    counts = []

    def counting(candidates, ratios, tiles, Q, recompute=spans.recompute):
        counts.append(int(candidates.left[tiles].sum()))
        recompute(candidates, ratios, tiles, Q)

    monkeypatch.setattr(spans, "recompute", counting)
    return counts


@pytest.mark.parametrize("case", HARD)
def test_hard_picks(rng, small_windows, case):
    check_picks(*case(rng))


@pytest.mark.parametrize("case", HARD)
def test_hard_picks_on_bounds_alone(rng, small_windows, hasty, recomputed, case):
    W, score, pool, quota = case(rng)
    found = picks_of(W, score, pool, quota)
    np.testing.assert_array_equal(found.indices, reference_select(W, score, pool, quota).indices)
    assert recomputed, "no round ended without a pick"


@pytest.mark.parametrize("tile", [1, 7, 4096])
def test_picks_from_groups_of_unequal_sizes(rng, monkeypatch, small_windows, tile):
    monkeypatch.setattr(groups, "LARGEST_TILE", tile)
    pool = np.repeat([0, 1, 2, 3, -1, 1], [50, 1, 0, 3, 9, 20])
    check_picks(rng.normal(size=(6, 83)), rng.uniform(0.9, 1, 83), pool, np.array([9, 8, 0, 3]))


def test_few_candidates_are_recomputed(rng, recomputed):
    """Subtraction is enough until the rank is exhausted, which explicit residuals decide, once."""
    M, rounds = 1500, []
    given = rng.normal(size=(40, M)), rng.uniform(0.5, 1.5, M), np.zeros(M, np.int64), np.array([50])
    found = picks_of(*given, report=lambda *now: rounds.append(now))
    assert found.restarts == 1
    assert len(rounds) >= 6
    assert sum(recomputed) <= M


def test_where_subtraction_is_hopeless_it_costs_two_rounds(rng, monkeypatch, small_windows):
    """The ratios of nearly parallel vectors drop at once to where nothing can be subtracted; explicit ones take their place for good."""
    W = rng.normal(size=(20, 1)) + 1e-3 * rng.normal(size=(20, 200))
    given = W, rng.uniform(0.5, 1.5, 200), np.zeros(200, np.int64), np.array([18])

    def rounds():
        made = []
        picks_of(*given, report=lambda *now: made.append(now))
        return len(made)

    found = rounds()
    monkeypatch.setattr(groups.Groups, "begin_booking", lambda all_groups, _: all_groups.explicit.fill(True))
    assert found <= rounds() + 2


def test_the_comparer_rejects_ratios_that_nothing_is_subtracted_from(rng, monkeypatch, small_windows):
    given = near_the_picks(rng)
    check_picks(*given)
    monkeypatch.setattr(spans, "subtract", lambda *_: None)
    with pytest.raises(AssertionError):
        check_picks(*given)


def laid_out(W):
    """One group, its ratios outside an empty span."""
    M = W.shape[1]
    candidates, _ = groups.lay_out(W, torch.ones(M, dtype=torch.float64), torch.zeros(M, dtype=torch.int64), np.array([M]))
    return candidates, spans.Ratios(candidates.alone.clone(), candidates.alone.clone(), torch.ones_like(candidates.left))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_subtracted_ratios_are_exact_to_eleven_digits_or_bounds(rng, dtype):
    D, M = 60, 500
    W = torch.from_numpy(rng.normal(size=(D, M)) * 10.0 ** rng.integers(-3, 3, M)).to(dtype)
    W[:, 100:200] = W[:, :1] + W[:, 100:200] * torch.logspace(-9, 0, 100).to(dtype)  # nearly in the span
    candidates, ratios = laid_out(W)
    Q = spans.orthonormal_rows(W[None, :, :57].double(), torch.ones((1, 57), dtype=torch.bool))
    tile = torch.tensor([0])
    for part in Q.split(3, dim=1):
        spans.subtract(candidates, ratios, tile, part)
    _, exact = laid_out(W)
    spans.recompute(candidates, exact, tile, Q)
    known, found, exact = ratios.known[0], ratios.squared[0], exact.squared[0]
    assert 300 < known.sum() < 450
    np.testing.assert_allclose(found[known], exact[known], rtol=1e-11)
    assert (found >= exact)[~known].all()


@pytest.mark.parametrize("angle", [1.0, 1e-3, 1e-6])
def test_bases_are_orthonormal_and_span_in_order(rng, angle):
    columns = rng.normal(size=(2, 50, 1)) + angle * rng.normal(size=(2, 50, 20))
    columns *= 10.0 ** rng.integers(-5, 5, 20)
    used = rng.random((2, 20)) < 0.8
    bases = spans.orthonormal_rows(torch.from_numpy(columns), torch.from_numpy(used)).numpy()
    for rows, group, which in zip(bases, columns, used, strict=True):
        np.testing.assert_allclose(rows @ rows.T, np.diag(which), atol=1e-14)
        Q, _ = np.linalg.qr(group[:, which])
        np.testing.assert_allclose(np.abs((rows[which] * Q.T).sum(1)), 1, rtol=0, atol=1e-14 / angle**2)


def work_for(rng, n_groups):
    """Two picks for each group of 20, from windows of 4: two rounds."""
    rounds = []
    pool = rng.permutation(np.arange(20 * n_groups) % n_groups)
    given = rng.normal(size=(30, len(pool))), rng.uniform(0.95, 1, len(pool)), pool, np.full(n_groups, 2)
    work = count_device_work(lambda: picks_of(*given, report=lambda *now: rounds.append(now)))
    assert len(rounds) == 2
    return work


def test_many_groups_take_as_many_operations_as_few(rng, monkeypatch):
    monkeypatch.setattr(windows, "SMALLEST_WINDOW", 4)
    monkeypatch.setattr(windows, "LARGEST_WINDOW", 4)
    few, many = work_for(rng, 10), work_for(rng, 200)
    assert many.operations <= few.operations + 5
    assert (many.launches, many.copies) == (few.launches, few.copies)


def test_windows_do_not_outlive_their_batch(rng, monkeypatch, small_windows):
    """Until all batches have run, only what was picked is held: 40 windows of 16 would be 40 x 16 x 50 numbers."""
    monkeypatch.setattr(windows, "BATCH_BYTES", 1)
    held = []

    def booking(picked, *others, book=select._book):
        held.append(sum(value.untyped_storage().nbytes() for value in vars(picked).values() if isinstance(value, torch.Tensor)))
        book(picked, *others)

    monkeypatch.setattr(select, "_book", booking)
    check_picks(rng.normal(size=(50, 120)), rng.normal(size=120), np.repeat(np.arange(40), 3), np.full(40, 2))
    assert max(held) < 8 * 50 * 16 / 4
