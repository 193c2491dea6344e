"""What pursuit reads and returns: labels and targets, samples from any source, draws, tensors and heads of fewer picks."""

import numpy as np
import pytest
from pursuit_cases import small
from stream_cases import OnlySlices, batches, drawn_problem

import nc_fast
from nc_fast.backends.cpu import race

HOSTS = ["cpu", "reference"]


def outputs(found, W, X):
    return np.maximum(X @ found.weights + found.bias, 0) @ found.head + found.intercept


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize("names", [["a", "bb", "ccc"], [b"x", b"y", b"z"], [-5, 0, 2**40], [7, 8, 9]])
def test_labels_of_any_kind_stand_for_the_same_classes(names, backend):
    W, X, y = small()
    found, expected = nc_fast.pursuit(W, X, np.array(names)[y], 8, backend=backend), nc_fast.pursuit(W, X, y, 8, backend=backend)
    assert found.classes.tolist() == names
    for name in ("indices", "gains", "head", "intercept"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert (outputs(expected, W, X).argmax(axis=1) == y).mean() > 0.7


@pytest.mark.parametrize("backend", HOSTS)
def test_labels_are_one_hot_targets(backend):
    W, X, y = small()
    found, soft = nc_fast.pursuit(W, X, y, 8, backend=backend), nc_fast.pursuit(W, X, np.eye(3)[y], 8, backend=backend)
    assert soft.classes is None
    for name in ("indices", "gains", "explained", "head", "intercept"):
        np.testing.assert_allclose(getattr(soft, name), getattr(found, name), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize("offset", [0.0, 1000.0, -1e6])
def test_targets_far_from_zero_give_the_picks_and_the_head_of_those_near(backend, offset):
    W, X, _ = small()
    y = np.column_stack([np.abs(X[:, 0]), np.sin(X[:, 1])]) + 0.1 * np.random.default_rng(0).normal(size=(400, 2))
    near, far = nc_fast.pursuit(W, X, y, 12, backend=backend), nc_fast.pursuit(W, X, y + offset, 12, backend=backend)
    np.testing.assert_array_equal(far.indices, near.indices)
    assert far.ridge == near.ridge
    np.testing.assert_allclose(far.head, near.head, atol=1e-7)
    np.testing.assert_allclose(far.intercept, near.intercept + offset, atol=1e-6)


def test_one_column_of_targets_is_a_vector():
    W, X, _ = small()
    found, expected = nc_fast.pursuit(W, X, X[:, :1] ** 2, 5), nc_fast.pursuit(W, X, X[:, 0] ** 2, 5)
    np.testing.assert_array_equal(found.head, expected.head)
    assert found.head.shape == (5, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [2.0**-66, 2.0**-20, 2.0**66])
def test_the_unit_of_targets_and_samples_changes_no_pick(scale, dtype):
    W, X, _ = small(dtype)
    y, tolerance = (np.abs(X[:, 0]) + X[:, 1]).astype(np.float64), 1e-3 if dtype == np.float32 else 1e-9
    expected = nc_fast.pursuit(W, X, y, 10)
    found = nc_fast.pursuit(W, X, scale * y, 10)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.gains, scale**2 * expected.gains, rtol=1e-9)
    np.testing.assert_allclose(found.head, scale * expected.head, rtol=tolerance)
    found = nc_fast.pursuit(W, X * dtype(scale), y, 10)
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.gains, expected.gains, rtol=tolerance)
    np.testing.assert_allclose(found.head, expected.head / scale, rtol=tolerance)


def drawn(N, n, seed):
    """Return which samples a pursuit drew: their targets are their numbers."""
    y = np.arange(N, dtype=float)
    found = nc_fast.pursuit(np.ones((1, 1)), y[:, None], y, 1, max_samples=n, rng=seed)
    return found.gram.rows[1][:, 0].astype(int)


def test_samples_are_drawn_uniformly_without_replacement():
    N, n, times = 40, 10, 500
    counts, pairs = np.zeros(N), np.zeros((N, N))
    for seed in range(times):
        found = drawn(N, n, seed)
        assert len(set(found)) == n
        counts[found] += 1
        pairs[np.ix_(found, found)] += 1
    for count, share in ((counts, n / N), (pairs[np.triu_indices(N, 1)], n * (n - 1) / (N * (N - 1)))):
        z = (count - times * share) / np.sqrt(times * share * (1 - share))
        assert np.abs(z).max() < 4.5
        assert 0.6 < z.std() < 1.2


def test_all_samples_are_taken_where_there_are_no_more():
    np.testing.assert_array_equal(drawn(40, 40, 0), np.arange(40))
    np.testing.assert_array_equal(drawn(40, 5000, 0), np.arange(40))


def test_a_generator_draws_anew_each_time_and_a_seed_the_same():
    rng = np.random.default_rng(0)
    assert not np.array_equal(drawn(100, 10, rng), drawn(100, 10, rng))
    np.testing.assert_array_equal(drawn(100, 10, 3), drawn(100, 10, np.random.default_rng(3)))


@pytest.mark.parametrize("targets", [False, True])
@pytest.mark.parametrize("form", ["memmap", "only slices", (40_000,), (16_384,), (1, 700, 9000), "loader"])
def test_every_source_gives_the_picks_and_the_head_of_the_array(form, targets, tmp_path):
    W, X, y = drawn_problem()
    if targets:
        y = np.column_stack([np.sin(X[:, 0]), X[:, 1] + y]).astype(np.float64)
    expected = nc_fast.pursuit(W, X, y, 9, max_samples=1000)
    source, labels = X, y
    if form == "memmap":
        source = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
        source[...] = X
    elif form == "only slices":
        source = OnlySlices(X)
    elif form == "loader":
        torch = pytest.importorskip("torch")
        source = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(*map(torch.from_numpy, (X, y))), batch_size=999)
        labels = None
    else:
        source, labels = list(batches(X, y, *form)), None
    found = nc_fast.pursuit(W, source, labels, 9, max_samples=1000)
    np.testing.assert_array_equal(found.gram.rows[1], expected.gram.rows[1])
    np.testing.assert_array_equal(found.indices, expected.indices)
    np.testing.assert_allclose(found.head, expected.head, rtol=1e-4, atol=1e-6)
    assert found.gram.weight == 40_000
    if not targets:
        assert found.classes.tolist() == [0, 1, 2, 3]


class Reading:
    """Batches of which each reading may be another."""

    def __init__(self, *readings):
        self._readings = iter(readings)

    def __iter__(self):
        return iter(next(self._readings))


@pytest.mark.parametrize(
    ("again", "message"),
    [
        (lambda X, y: (X[:9], y[:9]), "X: expected the same 400 samples at the second reading, got 9"),
        (lambda X, y: (np.tile(X, (2, 1)), np.tile(y, 2)), "X: expected the same 400 samples at the second reading, got 800"),
        (lambda X, y: (X, y + 5), r"y: expected the labels of the first reading, \[0, 1, 2\], got \[5, 6, 7\]"),
        (lambda X, y: (X, y.astype(str)), "y: expected the labels of the first reading"),
        (lambda X, y: (X, X[:, 0]), "y: expected labels as at the first reading, got 1 float targets"),
        (lambda X, y: (X[:, :5], y), "batch 0: X: expected shape"),
    ],
)
def test_a_second_reading_that_differs_is_refused(again, message):
    W, X, y = small()
    nc_fast.pursuit(W, Reading([(X, y)], [(X, y)]), None, 3)
    with pytest.raises(ValueError, match=rf"^{message}"):
        nc_fast.pursuit(W, Reading([(X, y)], [again(X, y)]), None, 3)


def test_a_second_reading_with_other_targets_is_refused():
    W, X, y = small()
    first, two = [(X, X[:, 0])], [(X, X[:, :2])]
    with pytest.raises(ValueError, match=r"^y: expected 1 float targets as at the first reading, got 2 float targets"):
        nc_fast.pursuit(W, Reading(first, two), None, 3)
    with pytest.raises(ValueError, match=r"^y: expected 1 float targets as at the first reading, got labels"):
        nc_fast.pursuit(W, Reading(first, [(X, y)]), None, 3)


def test_batches_that_can_be_read_once_are_refused():
    W, X, y = small()
    with pytest.raises(TypeError, match=r"^X: expected batches that can be read twice, such as a list or a DataLoader, got generator"):
        nc_fast.pursuit(W, batches(X, y, 100), None, 3)


def test_a_loader_is_asked_for_two_readings_and_no_more():
    W, X, y = small()
    readings = []

    class Counting:
        def __iter__(self):
            readings.append(0)
            return batches(X, y, 90)

    nc_fast.pursuit(W, Counting(), None, 3)
    assert len(readings) == 2


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize("y", ["labels", "targets"])
def test_fewer_picks_are_the_result_of_a_call_for_fewer(backend, y):
    W, X, labels = small()
    y = labels if y == "labels" else X[:, :2] ** 2 + 3
    whole = nc_fast.pursuit(W, X, y, 15, bias=0.1, backend=backend)
    for j in (1, 7, 15):
        found, expected = whole.take(j), nc_fast.pursuit(W, X, y, j, bias=0.1, backend=backend)
        for name in ("weights", "bias", "indices", "classes", "ridge", "kept", "filled"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), err_msg=name)
        for name in ("gains", "explained", "head", "intercept"):
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-9, err_msg=name)
    assert whole.take(7).take(3).head.shape[0] == 3


@pytest.mark.parametrize("block", [1, "auto"])
def test_a_pool_that_does_not_fit_is_cut_by_first_gains(block, monkeypatch):
    W, X, y = small(np.float32)
    monkeypatch.setattr(race, "memory_budget", lambda: 20 * 4 * len(X) + 3)
    with pytest.warns(
        UserWarning, match=r"^the activations of 60 candidates on 400 samples do not fit in memory: only the 20 of"
    ) as warned:
        found = nc_fast.pursuit(W, X, y, 8, block=block)
    assert warned[0].filename == __file__
    assert found.kept == 20
    z = np.maximum(X.astype(float) @ W, 0)
    T = (y[:, None] == np.arange(3)) - np.bincount(y) / len(y)
    first = (((z - z.mean(0)) / z.std(0)).T @ T) ** 2
    kept = np.sort(np.argsort(-first.sum(axis=1))[:20])
    monkeypatch.undo()
    expected = nc_fast.pursuit(W[:, kept], X, y, 8, block=block)
    np.testing.assert_array_equal(found.indices, kept[expected.indices])
    np.testing.assert_allclose(found.head, expected.head, rtol=1e-5, atol=1e-7)
    assert expected.kept == 20


def test_as_many_candidates_compete_as_are_to_be_picked(monkeypatch):
    W, X, y = small()
    monkeypatch.setattr(race, "memory_budget", lambda: 1)
    with pytest.warns(UserWarning, match="only the 25 of the largest first gains compete"):
        found = nc_fast.pursuit(W, X, y, 25)
    assert (found.kept, found.filled) == (25, 0)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_tensors_in_tensors_out_with_the_picks_of_numpy(dtype):
    torch = pytest.importorskip("torch")
    W, X, y = small(dtype)
    bias = np.linspace(-1, 1, 60)
    tW = torch.tensor(W, requires_grad=True)
    found = nc_fast.pursuit(tW, torch.from_numpy(X), torch.from_numpy(y), 9, bias=torch.from_numpy(bias))
    expected = nc_fast.pursuit(W, X, y, 9, bias=bias)
    for result, reference in ((found, expected), (found.take(4), expected.take(4))):
        for name in ("weights", "bias", "indices", "gains", "explained", "head", "intercept"):
            value = getattr(result, name)
            assert isinstance(value, torch.Tensor), name
            assert not value.requires_grad
            np.testing.assert_array_equal(value.numpy(), getattr(reference, name), err_msg=name)
    assert found.weights.dtype == found.bias.dtype == getattr(torch, dtype)
    called = nc_fast.pursuit(tW, torch.from_numpy(X), y, 9, bias=bias, activation=torch.relu)
    np.testing.assert_array_equal(called.indices.numpy(), expected.indices)
