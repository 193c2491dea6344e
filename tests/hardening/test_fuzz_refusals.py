"""Wrong things in the place of each argument of the public functions: one documented error, as in test_fuzz.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import fuzz_strategies as fuzz
from fuzz_oracles import assert_documented, unchanged
from fuzz_strategies import HOSTS
from hypothesis import assume, given, note
from hypothesis import strategies as st

import nc_fast


def assert_refused(call: Any, *args: Any, **kwargs: Any) -> None:
    with pytest.raises((TypeError, ValueError)) as caught, unchanged():
        call(*args, **kwargs)
    assert_documented(caught.value)


WRONG_OPTIONS = {
    "k": st.sampled_from(fuzz.NOT_COUNTS),
    "alpha": st.sampled_from(fuzz.NOT_SHARES),
    "activation": st.sampled_from([*fuzz.NOT_NAMES, *fuzz.BAD_CALLABLES]),
    "backend": st.sampled_from(fuzz.NOT_NAMES),
    "method": st.sampled_from(fuzz.NOT_NAMES),
    "precision": st.sampled_from(["fp16", *fuzz.NOT_NAMES]),
    "criterion": st.sampled_from([3, "fisher", lambda m: None, lambda m: (m.mean[0], m.mean[0]), lambda m: (m.mean, m.count)]),
}


@fuzz.examples(150)
@given(st.data(), st.sampled_from(["W_candidates", "X", "y", "bias", *WRONG_OPTIONS]), st.sampled_from(HOSTS))
def test_campaign_refuses_what_is_wrong(data, name, backend):
    rng = np.random.default_rng(0)
    good = {"W_candidates": rng.normal(size=(4, 9)), "X": rng.normal(size=(12, 4)), "y": np.arange(12) % 3, "k": 3}
    if name == "y":
        wrong = data.draw(fuzz.wrong_labels(12))
    elif name in WRONG_OPTIONS:
        wrong = data.draw(WRONG_OPTIONS[name])
    else:
        wrong = data.draw(fuzz.wrong_array(rng.normal(size=9) if name == "bias" else good[name], numbers_are_good=name == "bias"))
    note(f"{name} = {wrong!r}")
    assert_refused(nc_fast.campaign, **{"backend": backend, **good, name: wrong})


@fuzz.examples(60)
@given(st.data(), st.sampled_from(["W", "scores", "groups", "k"]), st.sampled_from(HOSTS))
def test_select_refuses_what_is_wrong(data, name, backend):
    rng = np.random.default_rng(0)
    good = {"W": rng.normal(size=(4, 9)), "scores": rng.normal(size=9), "groups": np.arange(9) % 2, "k": 3}
    if name == "k":
        wrong = data.draw(WRONG_OPTIONS["k"])
    elif name == "groups":
        wrong = data.draw(fuzz.wrong_labels(9))
    else:
        wrong = data.draw(fuzz.wrong_array(good[name], numbers_are_good=name == "scores"))
    note(f"{name} = {wrong!r}")
    assert_refused(nc_fast.select, **{**good, name: wrong}, backend=backend)


@fuzz.examples(40)
@given(st.data(), st.booleans(), st.booleans())
def test_batches_refuse_what_is_wrong(data, wrong_X, first):
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(12, 4)), np.arange(12) % 3
    bad = (data.draw(fuzz.wrong_array(X)), y) if wrong_X else (X, data.draw(fuzz.wrong_labels(12)))
    bad = data.draw(st.sampled_from([bad, bad, bad, None, X[0, 0], (X,), (X, y, y), "ab", {}]))
    assert_refused(nc_fast.class_moments, rng.normal(size=(4, 9)), [bad] if first else [(X, y), bad])


@fuzz.examples(40)
@given(st.data())
def test_projector_refuses_what_is_wrong(data):
    projector = nc_fast.NullSpaceProjector(4)
    for dim in [*fuzz.NOT_COUNTS[:1], -(10**30), 10**30]:
        assert_refused(nc_fast.NullSpaceProjector, dim)
    W = np.random.default_rng(0).normal(size=(4, 9))
    assert_refused(projector.add, data.draw(fuzz.wrong_array(W[:, 0])))
    wrong = data.draw(fuzz.wrong_array(W))
    assume(getattr(wrong, "shape", ()) != (4, 0))  # no vectors: no ratios
    assert_refused(projector.ratios, wrong)
    assert (projector.rank, projector.ratios(W).tolist()) == (0, [1.0] * 9)
