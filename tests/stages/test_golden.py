"""The original program's results: where they are well defined the picks are identical, in order."""

import json
from pathlib import Path

import numpy as np
import pytest

import nc_fast

HERE = Path(__file__).resolve().parent.parent / "data" / "golden"
SCORE_TOLERANCE = 2e-6  # the original computes in float32


def check(path, backend):
    golden = np.load(path)
    meta = json.loads(str(golden["meta"]))
    W = golden["W"].astype(np.float32)
    X = golden["X"].astype(np.float32) / meta.get("x_divisor", 1)
    result = nc_fast.campaign(
        W, X, golden["y"], meta["k"], alpha=meta["alpha"], bias=meta["bias"], activation=meta["activation"], backend=backend
    )
    np.testing.assert_allclose(result.candidates.score, golden["scores"], atol=SCORE_TOLERANCE)
    np.testing.assert_array_equal(result.candidates.classes[result.candidates.group], golden["groups"])
    if meta["well_defined"]:
        np.testing.assert_array_equal(result.indices, golden["indices"])
        return
    for group in np.unique(golden["groups"]):
        theirs = golden["indices"][golden["groups"][golden["indices"]] == group]
        ours = result.indices[result.groups == group]
        agreed = until_ill_defined(theirs, golden["scores"], rank=W.shape[0])
        np.testing.assert_array_equal(ours[:agreed], theirs[:agreed])


def until_ill_defined(picks, scores, rank):
    """How many picks of a group come before its first repeat, first non-positive score, or exhausted rank.

    After ``rank`` picks every residual is 0: the original goes on with rounding noise, the contract restarts the group.
    """
    for position, pick in enumerate(picks[:rank]):
        if pick in picks[:position] or scores[pick] <= 0:
            return position
    return min(len(picks), rank)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize("name", sorted(path.name for path in HERE.glob("*.npz")))
def test_goldens_that_travel_with_the_clone(name, backend):
    check(HERE / name, backend)


@pytest.mark.parametrize("backend", ["reference", "cpu"])
def test_all_goldens(shared, backend):
    paths = sorted((shared / "golden").glob("*.npz"))
    assert len(paths) == 51
    for path in paths:
        check(path, backend)
