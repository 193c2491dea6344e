"""Pursuit's picks: fastcan's, the reference's, those of an independent replay; windows of picks; what is said of them."""

import warnings

import numpy as np
import pytest
from pursuit_cases import assert_follows_the_rules, centred_targets, random_problem, raw_activations, standardized

import nc_fast
from nc_fast.backends.cpu import pursue as cpu
from nc_fast.backends.registry import BACKENDS

HOSTS = ["cpu", "reference"]
RANK = "ignore:k = .* exceeds the rank:UserWarning"


@pytest.mark.parametrize("seed", range(20))
def test_the_picks_of_fastcan(seed):
    """Its targets are whitened: an orthonormal basis of the span of the classes."""
    fastcan = pytest.importorskip("fastcan")
    rng = np.random.default_rng(seed)
    n, M, C, k = rng.integers(80, 300), rng.integers(30, 120), rng.integers(2, 6), 12
    Z, y = rng.normal(size=(n, M)) @ rng.normal(size=(M, M)), rng.integers(0, C, n)
    Z[np.arange(n), y] += 30
    one_hot = centred_targets(y)
    Q = np.linalg.qr(one_hot[:, :-1])[0]
    expected = fastcan.FastCan(k, eta=False, verbose=0).fit(Z, Q).indices_
    for backend in HOSTS:
        found = nc_fast.pursuit(np.eye(M), Z, Q, k, activation="identity", damping=0, block=1, backend=backend)
        np.testing.assert_array_equal(found.indices, expected)


@pytest.mark.filterwarnings(RANK)
@pytest.mark.parametrize("part", range(10))
def test_exact_picks_are_the_references(part):
    """200 problems; the replay tells which have gaps that are clear, and sees what both might have wrong."""
    clear = 0
    for seed in range(20 * part, 20 * part + 20):
        problem = random_problem(seed)
        z, T = raw_activations(problem), centred_targets(problem.y)
        found = {
            backend: nc_fast.pursuit(problem.W, problem.X, problem.y, problem.k, block=1, backend=backend, **problem.options)
            for backend in HOSTS
        }
        sure = [assert_follows_the_rules(found[backend], z, T, problem.k, problem.options["damping"]) for backend in HOSTS]
        if all(sure):
            clear += 1
            for name in ("indices", "filled"):
                np.testing.assert_array_equal(getattr(found["cpu"], name), getattr(found["reference"], name), err_msg=f"{seed}: {name}")
            for name in ("gains", "explained"):
                scale = (T**2).sum() if name == "gains" else 1
                np.testing.assert_allclose(
                    getattr(found["cpu"], name), getattr(found["reference"], name), rtol=1e-6, atol=1e-9 * scale, err_msg=f"{seed}: {name}"
                )
    assert clear >= 14


def large(dtype=np.float32, M=900):
    rng = np.random.default_rng(3)
    X = rng.normal(size=(800, 8)).astype(dtype)
    return rng.normal(size=(8, M)).astype(dtype), X, rng.integers(0, 4, 800) + (X[:, 0] > 0)


@pytest.fixture
def windows(monkeypatch):
    """Pools of a test's size are picked from in windows, as large ones are."""
    monkeypatch.setattr(cpu, "SMALL_POOL", 0)


@pytest.mark.parametrize("block", ["auto", 1, 7, 16, 64])
def test_the_first_picks_are_the_picks_for_fewer(block, windows):
    W, X, y = large()
    whole = nc_fast.pursuit(W, X, y, 60, block=block)
    for j in (1, 2, 5, 8, 15, 16, 17, 31, 40, 47, 48, 49, 59):
        found = nc_fast.pursuit(W, X, y, j, block=block)
        np.testing.assert_array_equal(found.indices, whole.indices[:j])
        np.testing.assert_allclose(found.gains, whole.gains[:j], rtol=1e-6)
        np.testing.assert_allclose(found.explained, whole.explained[:j], atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize("block", ["auto", 16, 64])
def test_windows_explain_as_much(block, damping, windows):
    W, X, y = large()
    found, exact = (nc_fast.pursuit(W, X, y, 80, block=b, damping=damping) for b in (block, 1))
    assert not np.array_equal(found.indices, exact.indices)  # otherwise no window was looked at
    for k in (20, 40, 80):
        assert found.explained[k - 1] > 0.95 * exact.explained[k - 1]


@pytest.mark.parametrize("block", [1, 16, "auto"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_gains_and_shares_are_those_of_the_picked_activations(block, dtype, windows):
    """By a QR decomposition of their standardised columns: gain |T'q|^2 |u|^2 / (|u|^2 + damping n), share |T'Q|^2 / |T|^2."""
    (W, X, y), damping = large(dtype), 0.01
    found = nc_fast.pursuit(W, X, y, 60, block=block, damping=damping)
    z = standardized(np.maximum(X.astype(np.float64) @ found.weights, 0))[0]
    Q, R = np.linalg.qr(z)
    T = centred_targets(y)
    squares, norm = ((Q.T @ T) ** 2).sum(axis=1), R.diagonal() ** 2
    tolerance = 1e-9 if block == 1 else 1e-3
    np.testing.assert_allclose(found.gains, squares * norm / (norm + damping * len(X)), rtol=tolerance)
    np.testing.assert_allclose(found.explained, np.cumsum(squares) / (T**2).sum(), atol=1e-9 if block == 1 else 1e-5)
    assert (np.diff(found.explained) > 0).all()


def test_damping_keeps_from_candidates_that_are_nearly_spanned(rng):
    """The first one differs by little from the second, which comes first, and that little explains most of what is left."""
    a, b, c = np.linalg.qr(rng.normal(size=(400, 3)) - 0.5)[0].T
    a, b, c = (v - v.mean() for v in (a, b, c))
    Z, y = np.column_stack([a, a + 0.01 * b, c]), a + 0.5 * b + 0.3 * c
    picks = [nc_fast.pursuit(np.eye(3), Z, y, 2, activation="identity", damping=d, block=1).indices.tolist() for d in (0, 0.1)]
    assert picks == [[1, 0], [1, 2]]


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize("block", [1, 16])
def test_beyond_the_rank_the_lowest_indices_fill_up_with_a_warning(backend, block, rng, windows):
    X, y = rng.normal(size=(50, 3)), rng.normal(size=50)
    W = np.column_stack([np.zeros(3), rng.normal(size=(3, 9))])
    with pytest.warns(UserWarning, match=r"^k = 6 exceeds the rank of the activations on 50 samples: 3 candidates") as warned:
        found = nc_fast.pursuit(W, X, y, 6, activation="identity", block=block, backend=backend)
    assert warned[0].filename == __file__
    assert found.filled == 3
    assert found.indices[3:].tolist() == np.setdiff1d(np.arange(10), found.indices[:3])[:3].tolist()
    assert not found.gains[3:].any()
    np.testing.assert_array_equal(found.explained[3:], found.explained[2])
    assert found.take(5).filled == 2
    assert found.take(3).filled == found.take(1).filled == 0


@pytest.mark.parametrize("backend", HOSTS)
def test_a_pool_that_explains_nothing_is_picked_in_order(backend):
    """Targets at a right angle to every candidate: gains of rounding noise count as 0."""
    Z = np.kron(np.array([[1.0, 1], [1, -1]]), np.array([[1.0, 1], [1, -1]]))[:, [1, 2, 3]]
    y = Z[:, 2].copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = nc_fast.pursuit(np.eye(2), Z[:, :2], y, 2, activation="identity", backend=backend, block=1)
    assert found.indices.tolist() == [0, 1]
    assert found.gains.tolist() == found.explained.tolist() == [0.0, 0.0]
    assert (found.filled, found.kept) == (0, 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("M", [300, 3000])
def test_among_hundreds_of_equal_candidates_the_lowest_is_picked(M, dtype, rng):
    distinct, X, which = rng.normal(size=(5, 3)).astype(dtype), rng.normal(size=(300, 5)).astype(dtype), rng.integers(0, 3, M)
    y = X[:, 0] + 0.1 * rng.normal(size=300)
    found = nc_fast.pursuit(distinct[:, which], X, y, 3, block=1)
    expected = nc_fast.pursuit(distinct, X, y, 3, backend="reference")
    assert found.indices.tolist() == [int(np.argmax(which == j)) for j in expected.indices]


def test_windows_pick_none_of_many_equal_candidates_twice(rng, windows):
    distinct, X, which = rng.normal(size=(5, 40)), rng.normal(size=(300, 5)), rng.integers(0, 40, 3000)
    found = nc_fast.pursuit(distinct[:, which], X, np.sin(3 * X[:, 0]), 30, block=16)
    assert len(set(which[found.indices])) == 30


@pytest.mark.parametrize("backend", HOSTS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y": np.full(40, 0.1)}, r"^y: expected labels or targets that vary, got the same on all 40 samples drawn"),
        ({"y": np.full(40, 1e9 + 0.1)}, "^y: expected labels or targets that vary"),
        ({"y": np.zeros(40, int)}, "^y: expected labels or targets that vary"),
        ({"y": 1e39 * np.arange(40)}, r"^y: expected float targets of at most 1e\+30, got 3.9e\+40; scale them down"),
        ({"activation": lambda z: np.where(z > 1, np.nan, z)}, "^W, X, bias: expected activations with finite moments"),
        ({"X": np.eye(40, 4) * 1e300, "W_candidates": 1e300 * np.ones((4, 6))}, "^W, X, bias: expected activations with finite moments"),
    ],
)
@pytest.mark.filterwarnings("ignore:(overflow|invalid):RuntimeWarning")
def test_what_cannot_be_pursued_is_refused(backend, change, message, rng):
    good = {"W_candidates": rng.normal(size=(4, 6)), "X": rng.normal(size=(40, 4)), "y": np.arange(40) % 3, "k": 2}
    nc_fast.pursuit(**good, backend=backend)
    with pytest.raises(ValueError, match=message):
        nc_fast.pursuit(**{**good, **change}, backend=backend)


@pytest.mark.parametrize("backend", HOSTS)
def test_targets_of_zeros_for_a_backend(backend, rng):
    arguments = {"bias": np.zeros(5), "activation": "identity", "damping": 0.0, "block": 1}
    found = BACKENDS[backend].pursue(rng.normal(size=(3, 5)), rng.normal(size=(20, 3)), np.zeros((20, 2)), 2, **arguments)
    assert (found.indices.tolist(), found.explained.tolist()) == ([0, 1], [0.0, 0.0])
