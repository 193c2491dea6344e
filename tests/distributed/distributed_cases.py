"""What the tests of campaigns on gloo ranks share: the ranks, their shares of the arguments, the comparison with one process."""

from itertools import pairwise

import numpy as np
import pytest

pytest.importorskip("torch")

from rank_workers import Workers

import nc_fast
from nc_fast.distributed import count_traffic

SHARDS = ("samples", "candidates")


def started(request, tmp_path_factory):
    ranks = Workers(request.param, tmp_path_factory.mktemp("ranks") / "store")
    yield ranks
    ranks.close()


def parts(n, size, uneven=False):
    """Where n things are cut; uneven: the first rank gets nothing, the last most."""
    cuts = np.linspace(0, n, size + 1).astype(int)
    if uneven:
        cuts[1:-1] = np.arange(size - 1) * (n // (4 * size))
    return [slice(a, b) for a, b in pairwise(cuts)]


def share(W, X, y, rank, size, shard, uneven=False):
    """A rank's arguments."""
    if shard == "samples":
        mine = parts(X.shape[0], size, uneven)[rank]
        return W, X[mine], y[mine]
    return W[:, parts(W.shape[1], size, uneven)[rank]], X, y


def campaign(rank, group, W, X, y, k, shard, options, uneven=False):
    given = share(W, X, y, rank, group.size(), shard, uneven)
    bias = options.get("bias", 0.0)
    if shard == "candidates" and np.ndim(bias):
        options = {**options, "bias": bias[parts(W.shape[1], group.size(), uneven)[rank]]}
    with count_traffic() as traffic:
        result = nc_fast.campaign(*given, k, process_group=group, shard=shard, **options)
    return result, traffic


def assert_same(found, expected):
    for name in ("indices", "groups", "weights", "bias"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    # BLAS may sum a product of fewer columns or rows in another order: float32's last bits.
    np.testing.assert_allclose(found.gains, expected.gains, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5, atol=1e-7)
    assert found.restarts == expected.restarts
