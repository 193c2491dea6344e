"""Class moments merged and read, case by case; tests/hardening/test_oracle.py has the rounding."""

import numpy as np
import pytest

import nc_fast
from nc_fast.merging import chan_merge
from nc_fast.types import Certificate, ClassMoments


def moments_of(z, y):
    """By the definition; z is (N, M)."""
    classes = np.unique(y)
    own = [z[np.asarray(y) == c] for c in classes]
    return ClassMoments(
        classes,
        np.array([len(part) for part in own]),
        np.array([part.mean(axis=0) for part in own]),
        np.array([((part - part.mean(axis=0)) ** 2).sum(axis=0) for part in own]),
    )


def in_torch(moments):
    torch = pytest.importorskip("torch")
    return ClassMoments(moments.classes, *(torch.tensor(array) for array in (moments.count, moments.mean, moments.m2)))


@pytest.fixture(params=[lambda moments: moments, in_torch], ids=["numpy", "torch"])
def library(request):
    return request.param


def test_classes_of_either_side_or_both_are_merged_by_label(library, rng):
    z, y = rng.normal(size=(60, 3)), np.repeat(["b", "d", "a", "c"], [20, 10, 25, 5])
    rows = rng.permutation(60)
    first, second = rows[np.isin(y[rows], ["b", "d"])], rows[np.isin(y[rows], ["a", "c"])]
    first, second = np.append(first, second[:7]), second[7:]  # "a" and perhaps "c" on both sides
    one, other, whole = moments_of(z[first], y[first]), moments_of(z[second], y[second]), moments_of(z, y)
    assert set(one.classes) - set(other.classes), "the sides have the same classes"
    found = library(one) + library(other)
    assert found.classes.tolist() == ["a", "b", "c", "d"]
    assert (found.n_samples, found.n_candidates) == (60, 3)
    assert type(found.count) is type(library(whole).count)
    np.testing.assert_array_equal(found.count, whole.count)
    np.testing.assert_allclose(found.mean, whole.mean, rtol=1e-13)
    np.testing.assert_allclose(found.m2, whole.m2, rtol=1e-13)


def test_sum_merges_any_number_of_moments(library, rng):
    z, y = rng.normal(size=(60, 3)), np.arange(60) % 4
    parts = [library(moments_of(z[rows], y[rows])) for rows in np.split(rng.permutation(60), [7, 30, 31])]
    found, one_by_one = sum(parts), parts[0] + parts[1] + parts[2] + parts[3]
    for name in ("classes", "count", "mean", "m2"):
        np.testing.assert_array_equal(getattr(found, name), getattr(one_by_one, name))
    assert sum(parts[:1]) is parts[0]


@pytest.mark.parametrize("other", [1, 0.5, None, (), np.ones(3)])
def test_moments_add_to_nothing_else(other, rng):
    moments = moments_of(rng.normal(size=(6, 2)), np.arange(6) % 2)
    for add in (lambda: moments + other, lambda: other + moments):
        with pytest.raises(TypeError, match=r"unsupported operand|can only concatenate"):
            add()


def test_added_classes_are_empty_and_keep_the_dtypes(library, rng):
    moments = library(moments_of(rng.normal(size=(30, 2)), np.arange(30) % 2))
    found = moments.over(np.array([0, 1, 5]))
    assert found.classes.tolist() == [0, 1, 5]
    for name in ("count", "mean", "m2"):
        array = getattr(found, name)
        assert array.dtype == getattr(moments, name).dtype
        np.testing.assert_array_equal(array[:2], getattr(moments, name))
        assert not array[2:].any()
    assert moments.over(np.array([0, 1])) is moments


def test_added_classes_are_made_on_the_tensors_device(rng):
    pytest.importorskip("torch")
    moments = in_torch(moments_of(rng.normal(size=(4, 1)), np.zeros(4, int)))
    elsewhere = ClassMoments(moments.classes, *(part.to("meta") for part in (moments.count, moments.mean, moments.m2)))
    found = elsewhere.over(np.array([0, 1]))
    assert [part.device.type for part in (found.count, found.mean, found.m2)] == ["meta"] * 3
    assert found.mean.shape == found.m2.shape == (2, 1)


def test_pools_of_different_sizes_are_refused(rng):
    one, other = (moments_of(rng.normal(size=(6, M)), np.zeros(6, int)) for M in (3, 4))
    with pytest.raises(ValueError, match=r"^ClassMoments: expected 3 candidates in both, got 4$"):
        one + other
    with pytest.raises(TypeError):
        one + 1


def test_an_empty_side_leaves_the_bits_of_the_other(library, rng):
    moments = library(moments_of(0.1 + rng.normal(size=(7, 5)), np.zeros(7, int)))
    side, empty = (moments.count, moments.mean, moments.m2), (moments.count * 0, moments.mean * 0 + 0.3, moments.m2 * 0)
    for merged in (chan_merge(side, empty), chan_merge(empty, side)):
        for found, expected in zip(merged, side, strict=True):
            np.testing.assert_array_equal(found, expected)


def test_single_samples_merge_to_their_mean(library):
    one, other = (library(moments_of(np.array([[z]]), [0])) for z in (1.0, 4.0))
    found = one + other
    assert (int(found.count[0]), float(found.mean[0, 0]), float(found.m2[0, 0])) == (2, 2.5, 4.5)
    assert float(found.spread()[0]) == 4.5**0.5


def test_within_between_and_spread_are_their_definitions(library, rng):
    z, y = rng.normal(size=(40, 3)) + 5, np.repeat([0, 1, 2, 3, 4], [1, 2, 7, 10, 20])  # a single sample has no spread
    own = [z[y == c] for c in range(5)]
    moments = library(moments_of(z, y))
    within = np.mean([part.std(axis=0, ddof=1) if len(part) > 1 else np.zeros(3) for part in own], axis=0)
    np.testing.assert_allclose(moments.within(), within, rtol=1e-12)
    np.testing.assert_allclose(moments.between(), np.std([part.mean(axis=0) for part in own], axis=0, ddof=1), rtol=1e-12)
    np.testing.assert_allclose(moments.spread(), z.std(axis=0, ddof=1), rtol=1e-12)
    scores = nc_fast.ib_scores(moments)
    assert scores.classes.tolist() == [0, 1, 2, 3, 4]
    np.testing.assert_array_equal(scores.group, np.argmax([part.mean(axis=0) for part in own], axis=0))


def test_the_certificate_of_a_pool_scored_exactly():
    certificate = Certificate.all_exact(40, "the pool is too small to screen")
    assert certificate == Certificate(40, 40, 0, "none", {}, 0.0, 0.0, 0.0, 0.0, 0.0, 0, "the pool is too small to screen")
    assert certificate.exact
    assert str(certificate) == "All 40 candidates were scored exactly: the pool is too small to screen. The picks are the exact method's."


def test_the_certificate_of_a_screened_pool_says_what_may_be_wrong():
    text = str(Certificate(1000, 90, 10, "low rank", {0.5: 0.1}, 0.02, 0.011, 0.002, 0.003, 0.016, 2))
    assert text == (
        "Of 1000 candidates 90 were shortlisted and 10 audited at random: 10.0% were scored exactly, the rest by a surrogate (low rank). "
        "The exact method would pick other neurons with probability 1.60%: 1.10% that one left out belongs in, 0.20% for the estimated "
        "constants of the score, 0.30% for the sizes of the groups. The order of near ties may differ."
    )


def test_moments_of_batches_add_up_to_those_of_the_whole(rng):
    W, X, y = rng.normal(size=(3, 5)), rng.normal(size=(40, 3)), np.repeat([3, 1, 2, 0], 10)
    whole = nc_fast.class_moments(W, X, y)
    first, second, third = (nc_fast.class_moments(W, X[part], y[part]) for part in (slice(0, 15), slice(15, 21), slice(21, 40)))
    for merged in ((first + second) + third, third + (first + second), second + (third + first)):
        np.testing.assert_array_equal(merged.count, whole.count)
        np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.m2, whole.m2, rtol=1e-12)
