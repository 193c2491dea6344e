import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nc_fast import share_quota
from nc_fast.quota import share_quota_beside


@pytest.mark.parametrize(
    ("sizes", "k", "expected"),
    [
        ([10, 3, 20], 14, [5, 3, 6]),
        ([5, 5, 5], 7, [2, 2, 3]),
        ([0, 4, 4], 3, [0, 1, 2]),
        ([1, 1, 100], 50, [1, 1, 48]),
        ([7], 7, [7]),
        ([4, 4], 0, [0, 0]),
        ([20, 3, 10], 14, [6, 3, 5]),
        ([3, 3, 20], 11, [3, 3, 5]),
    ],
)
def test_examples(sizes, k, expected):
    assert share_quota(sizes, k).tolist() == expected


@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(0, 600))
def test_everything_is_shared_and_as_evenly_as_sizes_allow(sizes, k):
    k = min(k, sum(sizes))
    quota = share_quota(sizes, k)
    assert quota.sum() == k
    assert (quota <= sizes).all()
    assert (quota >= 0).all()
    unsatisfied = quota[quota < sizes]
    if len(unsatisfied):
        assert quota.max() <= unsatisfied.min() + 1


def test_many_equal_groups_give_what_is_left_over_to_the_last():
    assert share_quota([5] * 40, 90).tolist() == [2] * 30 + [3] * 10
    assert share_quota([7, 5, 6] * 34, 4 * 102 + 20).tolist() == [4, 4, 4] * 14 + [5, 4, 4] * 20


def test_sizes_in_narrow_integers():
    quota = share_quota(np.array([200, 200], np.uint8), 300)
    assert quota.tolist() == [150, 150]
    assert quota.dtype == np.int64


@pytest.mark.parametrize("k", [-1, 4])
def test_more_than_there_is(k):
    with pytest.raises(ValueError, match="k: expected 0 <= k <= sum"):
        share_quota(np.array([1, 2]), k)


@pytest.mark.parametrize(
    ("sizes", "given", "k", "expected"),
    [
        ([10, 10, 10], [0, 0, 0], 9, [3, 3, 3]),
        ([10, 10, 10], [5, 0, 1], 9, [5, 2, 2]),
        ([10, 10, 10], [5, 2, 0], 8, [5, 2, 1]),
        ([10, 2, 10], [4, 2, 0], 9, [4, 2, 3]),
        ([0, 4], [0, 4], 4, [0, 4]),
    ],
)
def test_a_group_that_has_more_than_its_share_keeps_it(sizes, given, k, expected):
    assert share_quota_beside(np.array(sizes), np.array(given), k).tolist() == expected


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, 1)), min_size=1, max_size=9), st.floats(0, 1))
def test_sharing_beside_what_groups_have(groups, share):
    sizes = np.array([size for size, _ in groups])
    have = np.array([int(part * size) for size, part in groups])
    k = int(have.sum() + share * (sizes - have).sum())
    quota = share_quota_beside(sizes, have, k)
    assert quota.sum() == k
    assert ((have <= quota) & (quota <= sizes)).all()
    plain = share_quota(sizes, k)
    np.testing.assert_array_equal(share_quota_beside(sizes, np.minimum(have, plain), k), plain)
    more = quota[(quota > have) & (quota < sizes)]
    assert len(more) == 0 or quota[quota > have].max() <= quota[quota < sizes].min() + 1
