"""The GPU backend's stages on tensors that are already there; skipped without a device. gpu_report.py has the whole table."""

import numpy as np
import pytest
from inputs import inputs
from sizes import DIGITS, MNIST_5000, MNIST_20000

torch = pytest.importorskip("torch")
pytest.importorskip("triton")
if not torch.cuda.is_available():
    pytest.skip("torch sees no GPU", allow_module_level=True)

import nc_fast  # noqa: E402 - after the skips
from nc_fast.testing import assert_moments_match  # noqa: E402

SIZES = pytest.mark.parametrize("size", [DIGITS, MNIST_5000, MNIST_20000], ids=str)


def on_device(size):
    given = inputs(size)
    return given, torch.from_numpy(given.W).cuda(), torch.from_numpy(given.X).cuda()


def waited(call):
    """Return the call with the device's work included."""

    def run():
        result = call()
        torch.cuda.synchronize()
        return result

    return run


@SIZES
@pytest.mark.parametrize("precision", ["auto", "fp16", "tf32", "ieee"])
def test_moments(benchmark, size, precision):
    given, W, X = on_device(size)
    found = benchmark(waited(lambda: nc_fast.class_moments(W, X, given.y, precision=precision)))
    if precision in ("auto", "ieee"):
        some = (array[..., :61].cpu().numpy() for array in (found.mean, found.m2))
        part = nc_fast.ClassMoments(found.classes, found.count.cpu().numpy(), *some)
        assert_moments_match(part, given.W[:, :61], given.X, np.searchsorted(found.classes, given.y), activation="relu")
    benchmark.extra_info |= {"device": torch.cuda.get_device_name(), "torch": torch.__version__}


@SIZES
def test_bare_product(benchmark, size):
    _, W, X = on_device(size)
    benchmark(waited(lambda: X @ W))


@SIZES
def test_select(benchmark, size):
    given, W, X = on_device(size)
    scores = nc_fast.ib_scores(nc_fast.class_moments(W, X, given.y), alpha=1.0)
    benchmark(waited(lambda: nc_fast.select(W, scores, size.k)))


@SIZES
def test_campaign(benchmark, size):
    given, W, X = on_device(size)
    benchmark(waited(lambda: nc_fast.campaign(W, X, given.y, size.k)))
