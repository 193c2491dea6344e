"""Ridge heads: brute-force leave-one-out, scikit-learn's, batches, weights, what is degenerate; the Gram matrix used again."""

from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import nc_fast
from nc_fast import heads

STRENGTHS = 10.0 ** np.arange(2, -8.1, -0.5)


def problem(n=60, k=7, C=2, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(n, k)) @ rng.normal(size=(k, k)) + rng.normal(size=k)
    T = Z[:, :2] @ rng.normal(size=(2, C)) + 2 * rng.normal(size=(n, C)) + 5
    return Z.astype(dtype), T


def fit(Z, T, penalty, weight):
    """Weighted ridge regression with an intercept, by its normal equations; ``penalty`` (k,) in absolute terms."""
    Z1 = np.column_stack([np.ones(len(Z)), Z])
    return np.linalg.solve((Z1 * weight[:, None]).T @ Z1 + np.diag([0.0, *penalty]), (Z1 * weight[:, None]).T @ T)


def penalty(Z, ridge, weight):
    variance = weight @ (Z - weight @ Z / weight.sum()) ** 2 / weight.sum()
    return ridge * weight.sum() * variance


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("ridge", [1e-8, 0.01, 3.0])
def test_weights_and_leave_one_out_by_brute_force(ridge, weighted):
    Z, T = problem()
    weight = np.random.default_rng(1).integers(0, 4, len(Z)).astype(float) if weighted else np.ones(len(Z))
    head = nc_fast.ridge_head(Z, T, ridge=ridge, sample_weight=weight if weighted else None)
    added = penalty(Z, ridge, weight)
    whole, error = fit(Z, T, added, weight), 0.0
    np.testing.assert_allclose(head.weights, whole[1:], rtol=1e-8)
    np.testing.assert_allclose(head.intercept, whole[0], rtol=1e-8)
    for i in np.flatnonzero(weight):
        others = weight.copy()
        others[i] = 0
        error += weight[i] * ((np.append(1, Z[i]) @ fit(Z, T, added, others) - T[i]) ** 2).sum()
    np.testing.assert_allclose(head.loo_error, error / weight.sum(), rtol=1e-7)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("n", "k"), [(40, 7), (9, 12)])
def test_leave_one_out_predictions_by_brute_force(n, k, standardize, weighted):
    Z, T = problem(n, k)
    weight = np.random.default_rng(1).integers(1, 4, n).astype(float) if weighted else np.ones(n)
    head = nc_fast.ridge_head(Z, T, ridge=0.1, standardize=standardize, sample_weight=weight if weighted else None)
    added = penalty(Z, 0.1, weight)
    added = added if standardize else np.full_like(added, added.mean())
    whole = fit(Z, T, added, weight)
    np.testing.assert_allclose(np.vstack([head.intercept, head.weights]), whole, rtol=1e-8, atol=1e-10)
    rows, targets, weights = head.gram.rows
    found = heads.loo_predictions(head)
    for i in range(n):
        left = weights.copy()
        left[i] = 0
        b = fit(rows, targets, added, left)
        np.testing.assert_allclose(found[i], b[0] + rows[i] @ b[1:], rtol=1e-7, atol=1e-9)
    errors = weights @ ((targets - found) ** 2).sum(axis=1) / weights.sum()
    assert head.loo_error == pytest.approx(errors, rel=1e-8)


def test_without_standardizing_one_penalty_holds_for_all_activations():
    Z, T = problem()
    Z = np.column_stack([Z * np.logspace(-3, 1, 7), np.ones(len(Z))])  # the last is constant
    z, t = Z - Z.mean(0), T - T.mean(0)
    for ridge in (1e-4, 0.1):
        head = nc_fast.ridge_head(Z, T, ridge=ridge, standardize=False)
        wanted = np.linalg.solve(z.T @ z / len(z) + ridge * z.var(axis=0).mean() * np.eye(8), z.T @ t / len(z))
        np.testing.assert_allclose(head.weights, wanted, rtol=1e-7, atol=1e-12)
        np.testing.assert_allclose(head.intercept, T.mean(0) - Z.mean(0) @ wanted, rtol=1e-7)
        assert not head.weights[-1].any()


def test_the_strength_is_that_of_the_least_leave_one_out_error():
    Z, T = problem(25)
    errors = [nc_fast.ridge_head(Z, T, ridge=ridge).loo_error for ridge in STRENGTHS]
    best = nc_fast.ridge_head(Z, T)
    assert 0 < np.argmin(errors) < len(STRENGTHS) - 1
    assert best.ridge == STRENGTHS[np.argmin(errors)]
    np.testing.assert_allclose(best.loo_error, min(errors), rtol=1e-12)


@pytest.mark.parametrize("ridge", [1e-6, 0.1, 10.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_scikit_learns_ridge(ridge, weighted):
    linear_model = pytest.importorskip("sklearn.linear_model")
    Z, T = problem()
    weight = np.random.default_rng(1).random(len(Z)) if weighted else np.ones(len(Z))
    scale = np.sqrt(penalty(Z, 1.0, weight) / weight.sum())
    expected = linear_model.Ridge(alpha=ridge * weight.sum()).fit(Z / scale, T, sample_weight=weight)
    head = nc_fast.ridge_head(Z, T, ridge=ridge, sample_weight=weight)
    np.testing.assert_allclose(head.weights.T * scale, expected.coef_, rtol=1e-7)
    np.testing.assert_allclose(head.intercept, expected.intercept_, rtol=1e-7)


@pytest.mark.parametrize("n", [25, 60, 400])
def test_scikit_learns_choice_of_strength(n):
    linear_model = pytest.importorskip("sklearn.linear_model")
    Z, T = problem(n)
    expected = linear_model.RidgeCV(STRENGTHS * n).fit((Z - Z.mean(axis=0)) / Z.std(axis=0), T)
    head = nc_fast.ridge_head(Z, T)
    np.testing.assert_allclose(head.ridge, expected.alpha_ / n, rtol=1e-12)
    np.testing.assert_allclose(head.loo_error, -expected.best_score_ * T.shape[1], rtol=1e-6)
    np.testing.assert_allclose(head.weights.T * Z.std(axis=0), expected.coef_, rtol=1e-6, atol=1e-9)


def test_a_weight_of_two_is_two_samples():
    Z, T = problem()
    weight = np.random.default_rng(1).integers(0, 4, len(Z))
    rows = np.repeat(np.arange(len(Z)), weight)
    weighted, repeated = nc_fast.ridge_head(Z, T, ridge=0.1, sample_weight=weight), nc_fast.ridge_head(Z[rows], T[rows], ridge=0.1)
    np.testing.assert_allclose(weighted.weights, repeated.weights, rtol=1e-10)
    np.testing.assert_allclose(weighted.intercept, repeated.intercept, rtol=1e-10)
    halved = nc_fast.ridge_head(Z, T, sample_weight=weight / 2)
    np.testing.assert_allclose(halved.weights, nc_fast.ridge_head(Z, T, sample_weight=weight).weights, rtol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_samples_of_no_weight_are_as_if_absent(dtype):
    """Also where the 5000 whose errors are averaged would hardly meet one that counts."""
    Z, T = problem(30_000, dtype=dtype)
    weight = np.zeros(len(Z))
    some = np.random.default_rng(0).choice(len(Z), 40, replace=False)
    weight[np.sort(some)] = 3.0
    found, expected = nc_fast.ridge_head(Z, T, sample_weight=weight), nc_fast.ridge_head(Z[np.sort(some)], T[np.sort(some)])
    assert found.ridge == expected.ridge
    np.testing.assert_allclose(found.loo_error, expected.loo_error, rtol=1e-5)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-4 if dtype == np.float32 else 1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [0.0, 5.0, -1e6, 0.1])
@pytest.mark.parametrize("ridge", [0.0, "loo"])
def test_constant_activations_get_no_weight(value, ridge, dtype):
    Z, T = problem(200, dtype=dtype)
    expected = nc_fast.ridge_head(Z, T, ridge=ridge)
    found = nc_fast.ridge_head(np.insert(Z, 3, dtype(value), axis=1), T, ridge=ridge)
    assert not found.weights[3].any()
    np.testing.assert_allclose(np.delete(found.weights, 3, axis=0), expected.weights, rtol=1e-4 if dtype == np.float32 else 1e-9)
    np.testing.assert_allclose(found.intercept, expected.intercept, rtol=1e-4 if dtype == np.float32 else 1e-9)
    nothing = nc_fast.ridge_head(np.full((9, 2), value, dtype), T[:9], ridge=ridge)
    assert not nothing.weights.any()
    np.testing.assert_allclose(nothing.intercept, T[:9].mean(axis=0))


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_fewer_samples_than_activations(n):
    Z, T = problem(n, k=20)
    for ridge in (0.0, 1e-8, 0.1, "loo"):
        head = nc_fast.ridge_head(Z, T, ridge=ridge)
        assert np.isfinite(head.weights).all()
        assert head.loo_error >= 0
        if ridge == 0.0:
            np.testing.assert_allclose(Z @ head.weights + head.intercept, T, atol=1e-4)
    np.testing.assert_allclose(head.intercept, T.mean(axis=0) - Z.mean(axis=0) @ head.weights)


@pytest.mark.parametrize("ridge", [0.0, "loo"])
@pytest.mark.parametrize("apart", [1e-2, 1e-3, 1e-4, 1e-5, 0.0])
@pytest.mark.parametrize("n", [100, 6000])
def test_float32_activations_that_are_nearly_parallel(n, apart, ridge):
    """Below what float32 products resolve nothing is gained, and nothing may be lost: predictions stay as good as float64's."""
    rng = np.random.default_rng(0)
    common = rng.normal(size=(n, 1))
    Z = (common + apart * rng.normal(size=(n, 30))).astype(np.float32)
    T = common + 0.1 * rng.normal(size=(n, 1))
    found, expected = nc_fast.ridge_head(Z, T, ridge=ridge), nc_fast.ridge_head(Z.astype(np.float64), T, ridge=ridge)
    fits = [((Z.astype(float) @ head.weights + head.intercept - T) ** 2).mean() for head in (found, expected)]
    assert fits[0] < 1.01 * fits[1]
    assert found.loo_error < 1.01 * expected.loo_error


@pytest.mark.parametrize("offset", [0.0, 1e5, -1.7e9])
def test_targets_far_from_zero_beside_float32_activations(offset):
    Z, T = problem(4000, dtype=np.float32)
    near, far = nc_fast.ridge_head(Z, T), nc_fast.ridge_head(Z, T + offset)
    assert far.ridge == near.ridge
    np.testing.assert_allclose(far.weights, near.weights, atol=1e-5)
    np.testing.assert_allclose(far.loo_error, near.loo_error, rtol=1e-5)


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18])
def test_the_unit_of_float32_activations_changes_nothing(scale):
    """Their squares would under- or overflow."""
    Z, T = problem(2000, dtype=np.float32)
    Z[:, 3] *= np.float32(scale)
    expected = nc_fast.ridge_head(Z.astype(np.float64), T)
    for found in (nc_fast.ridge_head(Z, T), nc_fast.ridge_head([(Z[:9], T[:9]), (Z[9:], T[9:])])):
        assert found.ridge == expected.ridge
        np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-6)


@pytest.mark.parametrize("names", [[0, 1, 2], ["ab", "c", "d"], [False, True]])
def test_labels_become_one_hot(names):
    Z, _ = problem(90)
    codes = np.arange(90) % len(names)
    found, expected = nc_fast.ridge_head(Z, np.array(names)[codes]), nc_fast.ridge_head(Z, np.eye(len(names))[codes])
    np.testing.assert_array_equal(found.classes, names)
    assert expected.classes is None
    np.testing.assert_array_equal(found.weights, expected.weights)
    np.testing.assert_array_equal(found.intercept, expected.intercept)


@pytest.mark.parametrize("sizes", [(70,), (1, 500, 3000), (6001,)])
@pytest.mark.parametrize("labels", [False, True])
def test_batches_are_the_whole(sizes, labels):
    Z, T = problem(6001)
    if labels:
        T = np.repeat([2, 0, 1], [3000, 3000, 1])  # classes come late
    ends = np.cumsum(sizes * (6001 // sum(sizes) + 1))
    cuts = [slice(first, stop) for first, stop in zip([0, *ends], ends, strict=False) if first < 6001]
    whole, found = nc_fast.ridge_head(Z, T), nc_fast.ridge_head([(Z[cut], T[cut]) for cut in cuts])
    assert (found.ridge, found.gram.weight) == (whole.ridge, 6001)
    for name in ("weights", "intercept", "loo_error"):
        np.testing.assert_allclose(getattr(found, name), getattr(whole, name), rtol=1e-9, atol=1e-11)
    np.testing.assert_array_equal(found.gram.rows[0], whole.gram.rows[0])
    if labels:
        assert found.classes.tolist() == [0, 1, 2]


def test_tensors_in_tensors_out():
    torch = pytest.importorskip("torch")
    Z, T = problem(500, dtype=np.float32)
    expected = nc_fast.ridge_head(Z, T)
    tZ, tT = torch.tensor(Z, requires_grad=True), torch.tensor(T)
    for head in (nc_fast.ridge_head(tZ, tT), nc_fast.ridge_head([(tZ[:90], tT[:90]), (tZ[90:], tT[90:])])):
        assert isinstance(head.weights, torch.Tensor)
        assert isinstance(head.intercept, torch.Tensor)
        assert head.ridge == expected.ridge
        np.testing.assert_allclose(head.weights.numpy(), expected.weights, rtol=1e-4, atol=1e-6)
    mixed = nc_fast.ridge_head([(tZ[:90], T[:90]), (Z[90:], tT[90:])])
    np.testing.assert_allclose(mixed.weights.numpy(), expected.weights, rtol=1e-4, atol=1e-6)


def test_a_gram_matrix_is_used_again():
    Z, T = problem(300)
    gram = nc_fast.ridge_head(Z, T).gram
    for ridge in (0.0, 0.3, "loo"):
        for j in (1, 4, 7):
            found, expected = nc_fast.ridge_head(gram.take(j), ridge=ridge), nc_fast.ridge_head(Z[:, :j], T, ridge=ridge)
            assert found.ridge == expected.ridge
            np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-9)
            np.testing.assert_allclose(found.loo_error, expected.loo_error, rtol=1e-9)
    np.testing.assert_allclose(gram.gram, (Z - Z.mean(0)).T @ (Z - Z.mean(0)), rtol=1e-10, atol=1e-9)
    np.testing.assert_allclose(gram.cross, (Z - Z.mean(0)).T @ (T - T.mean(0)), rtol=1e-10, atol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_same_bits_for_any_number_of_threads(dtype):
    Z, T = problem(9000, k=40, dtype=dtype)
    found = []
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            head = nc_fast.ridge_head(Z, T)
            found.append(head.weights.tobytes() + head.intercept.tobytes() + np.float64(head.loo_error).tobytes())
    assert found[0] == found[1] == found[2]


def test_what_is_given_is_not_changed():
    Z, T = problem(300)
    given = [Z, T, np.arange(300.0)]
    before = [array.tobytes() for array in given]
    for array in given:
        array.flags.writeable = False
    nc_fast.ridge_head(Z, T, sample_weight=given[2])
    nc_fast.ridge_head([(Z, T), (Z, T)])
    assert [array.tobytes() for array in given] == before


@pytest.mark.parametrize(
    "sabotage",
    [
        lambda gram: replace(gram, mean=gram.mean + 0.1),
        lambda gram: replace(gram, gram=gram.gram * 1.01),
        lambda gram: replace(gram, cross=gram.cross * 1.01),
        lambda gram: replace(gram, rows=(gram.rows[0], gram.rows[1] - gram.target_mean, gram.rows[2])),
    ],
)
def test_sabotage_a_wrong_gram_matrix_is_noticed(sabotage, monkeypatch):
    """The brute force above can fail; the last of these had happened."""
    stream_gram = heads.stream_gram
    monkeypatch.setattr(heads, "stream_gram", lambda *args: sabotage(stream_gram(*args)))
    with pytest.raises(AssertionError):
        test_weights_and_leave_one_out_by_brute_force(0.01, False)
