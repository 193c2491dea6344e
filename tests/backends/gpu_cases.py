"""What the tests of the GPU kernels in Triton's interpreter share; they run on CPU tensors, against the float64 reference.

The interpreter is chosen when a kernel is decorated, so the whole run needs TRITON_INTERPRET=1; races, alignment and
bfloat16 products are beyond it (docs/gpu.md). Importing this module skips the test module that does where it is off.
"""

import numpy as np
import pytest

from nc_fast.backends.reference.select import select as reference_select
from nc_fast.testing import assert_moments_match, assert_picks_follow_rules
from nc_fast.types import ClassMoments

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.5")

from nc_fast.backends.gpu.device import interpreting  # noqa: E402 - after the skips

if not interpreting():
    pytest.skip("needs TRITON_INTERPRET=1 for the whole run", allow_module_level=True)

from nc_fast.backends.gpu import moments, select  # noqa: E402

RAGGED = (40, 1, 17, 16, 33)  # whole tiles of 16, remainders, one row


def problem(rng, counts=RAGGED, D=19, M=21, weights=np.float32, samples=np.float32, offset=0.0):
    codes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    X = (rng.normal(size=(len(codes), D)) + offset).astype(samples)
    W = (rng.normal(size=(D, M)) / D**0.5).astype(weights)
    return W, X, codes, rng.normal(size=M) * 0.1


def run(W, X, codes, bias, activation="relu", precision="auto", classes=None, **options):
    tensors = [value if isinstance(value, torch.Tensor) else torch.from_numpy(value) for value in (W, X, codes, bias)]
    classes = np.arange(codes.max() + 1) if classes is None else classes
    return moments.class_moments(*tensors[:3], classes, bias=tensors[3], activation=activation, precision=precision, **options)


def check(W, X, codes, bias, activation="relu", **options):
    found = run(W, X, codes, bias, activation, **options)
    assert_moments_match(found, W, X, codes, bias=bias, activation=activation)
    return found


def assert_close_to(found: ClassMoments, exact: ClassMoments, tolerance: float) -> None:
    """Raise unless means and class deviations agree, relative to the largest deviation."""
    deviation = np.sqrt(exact.m2 / np.maximum(exact.count - 1, 1)[:, None])
    scale = deviation.max()
    np.testing.assert_allclose(found.mean.numpy(), exact.mean, rtol=0, atol=tolerance * scale)
    got = np.sqrt(found.m2.numpy() / np.maximum(exact.count - 1, 1)[:, None])
    np.testing.assert_allclose(got, deviation, rtol=0, atol=tolerance * scale)


def assert_no_spread(found, columns):
    assert (found.spread()[columns] == 0).all()
    assert (found.m2[:, columns] == 0).all()
    assert (found.mean[:, columns] == found.mean[0, columns]).all()


def picks_of(W, score, pool, quota, **options):
    tensors = [value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value)) for value in (W, score, pool, quota)]
    return select.select(*tensors, **options)


def check_picks(W, score, pool, quota):
    found, exact = picks_of(W, score, pool, quota), reference_select(W, score, pool, quota)
    np.testing.assert_array_equal(found.indices.numpy(), exact.indices)
    np.testing.assert_allclose(found.gains.numpy(), exact.gains, rtol=1e-9, atol=1e-14)
    assert found.restarts == exact.restarts
    assert_picks_follow_rules(found, W, score, pool, quota)
