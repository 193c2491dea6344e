"""Streams of batches and the blocks they are cut into: no bit depends on batch sizes; labels of several batches."""

import numpy as np
import pytest
from stream_cases import ROWS, D, N, batches, drawn_problem, same_bits

import nc_fast
from nc_fast.inputs import sources
from nc_fast.stages import moments as moments_stage

problem = pytest.fixture(scope="module")(drawn_problem)


@pytest.mark.parametrize("sizes", [(100,), (1, 700, 20_000), (ROWS,), (N,)])
def test_neither_batch_sizes_nor_streaming_change_a_bit(problem, sizes):
    W, X, y = problem
    same_bits(nc_fast.class_moments(W, batches(X, y, *sizes)), nc_fast.class_moments(W, X, y))


def test_a_batch_whose_memory_is_used_again(problem):
    W, X, y = problem
    X_buffer, y_buffer = np.empty_like(X[:500]), np.empty_like(y[:500])

    def reusing():
        for a, b in batches(X, y, 500):
            X_buffer[...], y_buffer[...] = a, b
            yield X_buffer, y_buffer

    same_bits(nc_fast.class_moments(W, reusing()), nc_fast.class_moments(W, X, y))


def test_a_torch_loader(problem):
    torch = pytest.importorskip("torch")
    W, X, y = problem
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(X), torch.from_numpy(y))
    found = nc_fast.class_moments(torch.from_numpy(W), torch.utils.data.DataLoader(dataset, batch_size=999))
    same_bits(found, nc_fast.class_moments(W, X, y))


def test_kinds_of_batches_may_change_on_the_way(problem):
    W, X, y = problem
    parts = [(X[:700], y[:700]), (X[700:900].astype(np.float64), y[700:900]), (np.ones((5, D), np.uint8), ["0", "1", "0", "0", "9"])]
    parts = [(a, [str(label) for label in b]) for a, b in parts]
    found = nc_fast.class_moments(W, parts)
    alone = nc_fast.class_moments(W, *parts[0]) + nc_fast.class_moments(W, *parts[1]) + nc_fast.class_moments(W, *parts[2])
    same_bits(found, alone)


@pytest.mark.parametrize("order", [1, -1])
def test_labels_of_int64_and_uint64_stay_whole(order, rng):
    large = 2**62 + 1  # not a float64
    W, parts = rng.normal(size=(2, 5)), [np.array([large, -1, 7]), np.array([large, 7, 7], np.uint64)][::order]
    batches = [(rng.normal(size=(3, 2)), y) for y in parts]
    added = nc_fast.class_moments(W, *batches[0]) + nc_fast.class_moments(W, *batches[1])
    for found in (added, nc_fast.class_moments(W, batches)):
        assert (found.classes.tolist(), found.classes.dtype, found.count.tolist()) == ([-1, 7, large], np.int64, [1, 3, 2])


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ([1, 2], ["1", "2"], "y: expected labels of one kind, got integers and strings"),
        (["a", "b"], [b"\xff", b"a"], "y: expected labels of one kind, got bytes and strings"),
        ([-1, 2], np.array([2**64 - 1, 2], np.uint64), "y: expected labels that int64 or uint64 can hold, got -1 and 18446744073709551615"),
    ],
)
def test_labels_that_are_not_of_one_kind(first, second, message, rng):
    W, X = rng.normal(size=(2, 5)), rng.normal(size=(2, 2))
    with pytest.raises(ValueError, match=message):
        nc_fast.class_moments(W, X, first) + nc_fast.class_moments(W, X, second)
    with pytest.raises(ValueError, match=message):
        nc_fast.class_moments(W, [(X, first), (X, second)])


def test_a_bad_batch_is_named_by_its_number(problem):
    W, X, y = problem
    bad = X[:10].copy()
    bad[3, 2] = np.inf
    with pytest.raises(ValueError, match=r"batch 2: X: expected finite numbers, got inf at \(3, 2\)"):
        nc_fast.class_moments(W, [(X[:5], y[:5]), (X[5:9], y[5:9]), (bad, y[:10])])


def test_block_size_depends_on_features_alone():
    assert [sources.block_rows(d) for d in (1, 784, 2048, 4096, 10**7)] == [16_384, 16_384, 16_384, 8192, 256]


def test_sabotage_blocks_cut_at_batches_change_bits(problem, monkeypatch):
    """The comparer above can fail: without blocks of a fixed size, batch sizes show in the last bits."""
    W, X, y = problem
    monkeypatch.setattr(moments_stage, "block_rows", lambda _: 700)
    with pytest.raises(AssertionError):
        same_bits(nc_fast.class_moments(W, batches(X, y, 700)), nc_fast.class_moments(W, X, y))
