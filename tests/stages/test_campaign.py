import numpy as np
import pytest

import nc_fast
from nc_fast.testing import CASES, assert_picks_follow_rules
from nc_fast.types import Picks


@pytest.mark.parametrize("case", CASES[:6], ids=lambda case: case.name)
@pytest.mark.parametrize("by_class", [True, False])
@pytest.mark.filterwarnings("ignore:k = ")
def test_campaign_is_the_three_stages(backend, case, by_class, rng):
    W, X, y = case.draw(rng)
    bias = rng.normal(size=case.M)
    result = nc_fast.campaign(W, X, y, case.k, bias=bias, alpha=0.3, by_class=by_class, activation="silu", backend=backend)
    moments = nc_fast.class_moments(W, X, y, bias=bias, activation="silu", backend=backend)
    scores = nc_fast.ib_scores(moments, alpha=0.3)
    chosen = nc_fast.select(W, scores, case.k, by_class=by_class, backend=backend)
    np.testing.assert_array_equal(result.indices, chosen.indices)
    np.testing.assert_array_equal(result.gains, chosen.gains)
    np.testing.assert_array_equal(result.weights, W[:, chosen.indices])
    np.testing.assert_array_equal(result.bias, bias[chosen.indices])
    np.testing.assert_array_equal(result.groups, moments.classes[moments.mean.argmax(0)[chosen.indices]])
    assert len(set(result.indices.tolist())) == case.k


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_cpu_picks_what_the_reference_picks(dtype, rng):
    W, X, y = CASES[1].draw(rng, dtype)
    reference = nc_fast.campaign(W, X, y, 31, backend="reference")
    found = nc_fast.campaign(W, X, y, 31, backend="cpu")
    np.testing.assert_array_equal(found.indices, reference.indices)
    assert found.weights.dtype == found.bias.dtype == dtype
    assert found.indices.dtype == np.int64


@pytest.mark.parametrize("name", ["W_candidates", "X", "y", "bias"])
@pytest.mark.parametrize("whole", [False, True])
def test_the_byte_order_of_an_input_changes_nothing(backend, name, whole, rng):
    W, X, y = CASES[2].draw(rng)
    arguments = {"W_candidates": W, "X": np.rint(9 * X).astype(int) if whole else X, "y": y, "bias": W[0]}
    swapped = arguments[name].astype(arguments[name].dtype.newbyteorder())
    expected = nc_fast.campaign(**arguments, k=4, backend=backend)
    found = nc_fast.campaign(**{**arguments, name: swapped}, k=4, backend=backend)
    for field in ("weights", "bias", "indices", "gains", "groups"):
        np.testing.assert_array_equal(getattr(found, field), getattr(expected, field))
    assert found.weights.dtype == (swapped if name == "W_candidates" else W).dtype


def test_by_class_shares_and_orders_by_class(rng):
    W, X, y = CASES[0].draw(rng)
    result = nc_fast.campaign(W, X, y, 16)
    assert result.groups.tolist() == sorted(result.groups.tolist())
    group = result.candidates.group
    live = np.bincount(group, minlength=4)
    np.testing.assert_array_equal(np.bincount(result.groups, minlength=4), nc_fast.share_quota(live, 16))


def test_dead_candidates_are_picked_last(rng):
    W, X, y = CASES[0].draw(rng)
    W[:, 5] = 0  # the same activation on every sample, whatever the bias
    bias = np.zeros(64)
    bias[7] = -1e6  # relu never fires
    with pytest.warns(UserWarning, match="k = 64 exceeds the 62 live candidates"):
        result = nc_fast.campaign(W, X, y, 64, bias=bias)
    assert result.indices[-2:].tolist() == [5, 7]


def test_all_picks_of_mnist_pool_follow_the_rules(mnist, rng):
    X, y = mnist.X_train[:6000], mnist.y_train[:6000]
    W = (rng.normal(size=(784, 1000)) * (2 / 784) ** 0.5).astype(np.float32)
    result = nc_fast.campaign(W, X, y, 100)
    reference = nc_fast.campaign(W, X, y, 100, backend="reference")
    np.testing.assert_array_equal(result.indices, reference.indices)
    group = result.candidates.group
    quota = nc_fast.share_quota(np.bincount(group[result.candidates.live], minlength=10), 100)
    pool = np.where(result.candidates.live, group, -1)
    assert_picks_follow_rules(Picks(result.indices, result.gains, result.restarts), W, result.candidates.score, pool, quota)
