"""A GPU backend that lies about moments must be rejected by the shared comparers."""

from dataclasses import replace

import numpy as np
import pytest
from gpu_cases import assert_no_spread, check, problem, run

from nc_fast.backends.gpu import layout, moments
from nc_fast.backends.gpu.kernels import prepare
from nc_fast.backends.gpu.plan import Plan


def sabotage(monkeypatch, module, name, change):
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **options: change(original(*args, **options)))


LIES_ABOUT_MOMENTS = {
    "a slot's count is off": lambda m: sabotage(m, layout, "sample_layout", lambda made: replace(made, slot_count=made.slot_count + 1)),
    "two slots are swapped": lambda m: sabotage(m, layout, "sample_layout", lambda made: replace(made, slot=made.slot[::-1].copy())),
    "padding counts as samples": lambda m: sabotage(
        m, layout, "sample_layout", lambda made: replace(made, part_row=np.append(made.part_row[:-1], made.packed_rows).astype(np.int32))
    ),
    "the last sample is another's": lambda m: sabotage(
        m, layout, "sample_layout", lambda made: replace(made, source=np.append(made.source[:-1], made.source[0]))
    ),
    "the low parts are lost": lambda m: sabotage(
        m, moments, "choose_arithmetic", lambda made: replace(made, weights_low=False, samples_low=False)
    ),
    "a feature's shift is lost": lambda m: sabotage(m, moments, "measure_features", lambda made: replace(made, shift=made.shift + 1)),
    "another activation": lambda m: sabotage(m, Plan, "mixed_constants", lambda made: made | {"ACT": "identity"}),
    "only whole tiles": lambda m: sabotage(m, Plan, "pure_constants", lambda made: made | {"ACT": "tanh"}),
}


@pytest.mark.parametrize("lie", LIES_ABOUT_MOMENTS)
def test_the_comparer_rejects_wrong_moments(rng, monkeypatch, lie):
    given = problem(rng)
    check(*given)
    LIES_ABOUT_MOMENTS[lie](monkeypatch)
    if lie == "a feature's shift is lost":  # the shift cancels unless packing and offset disagree
        monkeypatch.setattr(prepare, "pack", _Unshifted(prepare.pack))
    with pytest.raises(AssertionError):
        check(*given)


class _Unshifted:
    """The packing kernel, deaf to the shift."""

    def __init__(self, kernel):
        self._kernel = kernel

    def __getitem__(self, grid):
        def launch(source, rows, shift, *rest, **options):
            return self._kernel[grid](source, rows, None if shift is None else shift * 0, *rest, **options)

        return launch


def test_the_comparer_rejects_chunks_that_overwrite_each_other(rng, monkeypatch):
    monkeypatch.setattr(layout, "SAMPLES_BYTES", 5000)
    given = problem(rng)
    check(*given)
    sabotage(monkeypatch, layout, "sample_layout", lambda made: replace(made, before=made.before * 0))
    with pytest.raises(AssertionError):
        check(*given)


def test_the_exactness_test_rejects_another_pivot(rng, monkeypatch):
    W, X, codes, bias = problem(rng, counts=(13, 29, 11))  # sums of 13 equal numbers round
    X, W = np.abs(X), -np.abs(W)
    bias = bias * 0 + X.sum(axis=1).min() * np.abs(W).min() * 0.5  # above 0, so that activation(bias) is not the dead one's 0
    assert_no_spread(run(W, X, codes, bias), slice(None))
    sabotage(monkeypatch, moments, "measure_features", lambda made: replace(made, mean=made.mean * 0))
    with pytest.raises(AssertionError):
        assert_no_spread(run(W, X, codes, bias), slice(None))
