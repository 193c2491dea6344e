"""What only a device can show. Run by itself, without TRITON_INTERPRET: ``pytest -m gpu tests``."""

import numpy as np
import pytest

import nc_fast
from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.reference.moments import class_moments as reference_moments
from nc_fast.backends.reference.pursue import pursue as reference_pursue
from nc_fast.backends.reference.select import select as reference_select
from nc_fast.testing import assert_moments_match, assert_picks_follow_rules

torch = pytest.importorskip("torch")
pytest.importorskip("triton", minversion="3.5")

from nc_fast.backends.gpu import columns, layout, moments, pursue, runtime, samples, select, tiles  # noqa: E402 - after the skips
from nc_fast.backends.gpu.device import interpreting  # noqa: E402
from nc_fast.backends.gpu.features import measure_features  # noqa: E402
from nc_fast.backends.gpu.precision import choose_arithmetic  # noqa: E402

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.skipif(interpreting(), reason="TRITON_INTERPRET=1: kernels would run on the CPU"),
]

RAGGED = (700, 1, 300, 256, 5, 1025)  # whole tiles of 256, remainders, one row
ERROR = {"auto": 2e-6, "ieee": 2e-6, "fp16": 5e-3, "tf32": 5e-3}  # of the largest deviation; 22 bits and truncated sums (docs/gpu.md)


def problem(rng, counts=RAGGED, D=83, M=301, dtype=np.float32):
    codes = rng.permutation(np.repeat(np.arange(len(counts)), counts))
    X = rng.normal(size=(len(codes), D)).astype(dtype)
    W = (rng.normal(size=(D, M)) / D**0.5).astype(dtype)
    return W, X, codes, rng.normal(size=M) * 0.1


def run(W, X, codes, bias, activation="relu", precision="auto", device="cuda", stream_samples=False):
    W, X = torch.as_tensor(W).to(device), torch.as_tensor(X)
    X = X if stream_samples else X.to(device)
    codes, bias = torch.from_numpy(codes).to(device), torch.from_numpy(bias).to(device)
    return moments.class_moments(W, X, codes, np.arange(int(codes.max()) + 1), bias=bias, activation=activation, precision=precision)


def same_bits(a, b):
    return torch.equal(a.mean.cpu(), b.mean.cpu()) and torch.equal(a.m2.cpu(), b.m2.cpu())


def assert_close_to_reference(found, W, X, codes, bias, activation, tolerance):
    exact = reference_moments(W, X, codes, found.classes, bias=bias, activation=activation)
    deviation = np.sqrt(exact.m2 / np.maximum(exact.count - 1, 1)[:, None])
    scale = deviation.max() or np.abs(exact.mean).max()  # one sample alone deviates from nothing
    np.testing.assert_allclose(found.mean.cpu(), exact.mean, rtol=0, atol=tolerance * scale)
    got = np.sqrt(found.m2.cpu().numpy() / np.maximum(exact.count - 1, 1)[:, None])
    np.testing.assert_allclose(got, deviation, rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("precision", ERROR)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_moments(rng, activation, precision):
    given = problem(rng)
    assert_close_to_reference(run(*given, activation, precision), *given, activation, ERROR[precision])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_moments_in_float64(rng, activation):
    W, X, codes, bias = problem(rng, dtype=np.float64)
    assert_moments_match(run(W, X, codes, bias, activation), W, X, codes, bias=bias, activation=activation)


@pytest.mark.parametrize("counts", [(60,) * 200, (1,), (256,), (5000, 3)], ids=str)
def test_many_and_few_classes(rng, counts):
    given = problem(rng, counts)
    assert_close_to_reference(run(*given), *given, "relu", ERROR["auto"])


@pytest.mark.parametrize("precision", ERROR)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_every_tile_shape_that_may_be_chosen(rng, activation, precision, monkeypatch):
    given, device = problem(rng), torch.empty(0, device="cuda").device
    arithmetic = choose_arithmetic(precision, torch.float32, torch.float32, centred=False, spread=False)
    for shape in tiles.variants(runtime.target(device), arithmetic, activation).values():
        monkeypatch.setattr(moments, "choose_tiles", lambda *_, shape=shape: shape)
        assert_close_to_reference(run(*given, activation, precision), *given, activation, ERROR[precision])


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("N", [2, 5000])
def test_features(rng, N, order):
    size = 2.0 ** rng.integers(-100, 100, 83)
    X = (rng.normal(size=(N, 83)) * size + size * 10 * (np.arange(83) % 2)).astype(np.float32, order=order)
    found = measure_features(torch.from_numpy(X).cuda(), torch.empty(0, device="cuda").device)
    X = X.astype(np.float64)
    np.testing.assert_allclose(found.mean.cpu().numpy() / size, X.mean(0) / size, rtol=0, atol=1e-12)
    centred = np.abs(X.mean(0)) > 4 * X.std(0)
    np.testing.assert_array_equal(found.shift.cpu(), np.where(centred, found.mean.cpu(), 0))
    largest = np.abs(X - found.shift.cpu().numpy()).max(0)
    np.testing.assert_array_equal(found.scale.cpu(), np.ldexp(1.0, -np.frexp(largest)[1]))
    np.testing.assert_array_equal(found.unscale.cpu(), np.ldexp(1.0, np.frexp(largest)[1]))


@pytest.mark.parametrize("samples", ["float16", "bfloat16", "uint8", "int64"])
@pytest.mark.parametrize("weights", ["float32", "float16", "bfloat16"])
def test_number_types(rng, weights, samples):
    W, X, codes, bias = problem(rng)
    W = torch.from_numpy(W).to(getattr(torch, weights))
    X = (torch.from_numpy(X).abs() * 30).to(getattr(torch, samples))
    found = run(W, X, codes, bias)
    assert_close_to_reference(found, W.double().numpy(), X.double().numpy(), codes, bias, "relu", ERROR["auto"])


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_constant_activation_has_exactly_no_spread(rng, activation):
    """Holds only where no compiler fuses across ``activation._rounded``: the interpreter cannot tell."""
    W, X, codes, bias = problem(rng)
    W[:, ::2] = 0
    found = run(W, X, codes, bias, activation)
    assert (found.m2[:, ::2] == 0).all()
    assert (found.mean[:, ::2] == found.mean[0, ::2]).all()


def test_the_same_bits_again_in_blocks_strided_and_streamed(rng, monkeypatch):
    W, X, codes, bias = problem(rng)
    first = run(W, X, codes, bias)
    assert same_bits(first, run(W, X, codes, bias))
    assert same_bits(first, run(torch.from_numpy(W.T.copy()).T, torch.from_numpy(X.T.copy()).T, codes, bias))
    monkeypatch.setattr(samples, "TILE_BYTES", 100 * 83 * 8)
    assert same_bits(run(W, X, codes, bias), run(W, X, codes, bias, stream_samples=True))
    monkeypatch.setattr(layout, "POOL_BYTES", 1)
    assert same_bits(first, run(W, X, codes, bias))


def test_another_stream_and_inference_mode(rng):
    given = problem(rng)
    first = run(*given)
    with torch.inference_mode(), torch.cuda.stream(torch.cuda.Stream()):
        other = run(*given)
    torch.cuda.synchronize()
    assert same_bits(first, other)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU only")
def test_the_second_gpu(rng):
    W, X, codes, bias = problem(rng)
    other = run(W, X, codes, bias, device="cuda:1")
    assert other.mean.device.index == 1
    assert same_bits(run(W, X, codes, bias), other)
    assert torch.cuda.current_device() == 0


@pytest.mark.parametrize("scores", ["mixed", "positive", "equal"])
@pytest.mark.parametrize(("D", "M", "quota"), [(40, 3000, (30, 7, 60)), (784, 4000, (300,)), (5, 200, (30, 30))])
def test_picks(rng, D, M, quota, scores):
    W = rng.normal(size=(D, M)).astype(np.float32)
    score = {"mixed": rng.normal(size=M), "positive": rng.uniform(0.5, 1, M), "equal": np.ones(M)}[scores]
    W[:, 11], score[11] = W[:, 3], score[3]
    pool, quota = rng.integers(0, len(quota), M), np.array(quota)
    found = select.select(*(torch.from_numpy(value).cuda() for value in (W, score, pool, quota)))
    exact = reference_select(W, score, pool, quota)
    np.testing.assert_array_equal(found.indices.cpu(), exact.indices)
    assert found.restarts == exact.restarts
    assert_picks_follow_rules(found, W, score, pool, quota)


def pursuit(rng, n=700, D=30, M=2000, C=5, dtype=np.float32):
    W, X, T = rng.normal(size=(D, M)), rng.normal(size=(n, D)), rng.normal(size=(n, C))
    return W.astype(dtype), X.astype(dtype), T - T.mean(axis=0), rng.normal(size=M) * 0.3


def pursued(W, X, T, bias, k, activation="relu", damping=1e-3, stream_samples=False, **options):
    W, T, bias = (torch.as_tensor(value).cuda() for value in (W, T, bias))
    X = torch.as_tensor(X) if stream_samples else torch.as_tensor(X).cuda()
    return pursue.pursue(W, X, T, k, bias=bias, activation=activation, damping=damping, block="auto", **options)


def check_pursuit(W, X, T, bias, k, activation="relu", damping=1e-3, **options):
    found = pursued(W, X, T, bias, k, activation, damping, **options)
    exact = reference_pursue(W, X, T, k, bias=bias, activation=activation, damping=damping, block=1)
    np.testing.assert_array_equal(found.indices.cpu(), exact.indices)
    np.testing.assert_allclose(found.gains.cpu(), exact.gains, rtol=1e-8, atol=1e-12 * (T**2).sum())
    np.testing.assert_allclose(found.explained.cpu(), exact.explained, atol=1e-10)
    assert (found.kept, found.filled) == (exact.kept, exact.filled)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_pursuit(rng, activation, dtype):
    check_pursuit(*pursuit(rng, dtype=dtype), 40, activation)


@pytest.mark.parametrize("damping", [0.0, 1e-3])
@pytest.mark.parametrize(("n", "C"), [(1001, 1), (300, 250)])
def test_pursuit_with_ties_dead_columns_and_beyond_the_rank(rng, n, C, damping):
    W, X, T, bias = pursuit(rng, n=n, D=6, M=333, C=C)
    W[:, 100:200], bias[100:200] = W[:, :100], bias[:100]
    W[:, [0, 250]] = 0
    check_pursuit(W, X, T, bias, 60, damping=damping)
    check_pursuit(W, X, T, bias * 0, 20, "identity", damping, stream_samples=True)


def test_a_round_of_pursuit_never_waits_for_the_device(rng, monkeypatch):
    whole = pursue._Loop.round

    def watched(loop, at_most):
        torch.cuda.set_sync_debug_mode("error")
        try:
            whole(loop, at_most)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(pursue._Loop, "round", watched)
    check_pursuit(*pursuit(rng), 40)


def test_pursuit_gives_the_same_picks_again_and_from_a_pool_that_is_cut(rng, monkeypatch):
    given = pursuit(rng)
    first, again = pursued(*given, 30), pursued(*given, 30)
    assert torch.equal(first.indices, again.indices)
    assert torch.equal(first.gains, again.gains)
    monkeypatch.setattr(runtime, "free_bytes", lambda _: 2 * 500 * (4 * columns.row_pitch(700) + 8 * 5 + 64))
    assert pursued(*given, 30).kept == 500


def test_pursuit_on_tf32_columns_explains_as_much(rng):
    given = pursuit(rng)
    torch.testing.assert_close(pursued(*given, 30, precision="tf32").explained, pursued(*given, 30).explained, rtol=5e-3, atol=0)


def test_a_million_candidates_within_two_gibibytes_beyond_their_weights(rng):
    D, M = 784, 10**6
    W = torch.randn(D, M, device="cuda")
    X, y = torch.randn(6000, D, device="cuda"), np.arange(6000) % 10
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    result = nc_fast.campaign(W, X, y, 1000, backend="gpu")
    assert len(torch.unique(result.indices)) == 1000
    assert torch.cuda.max_memory_allocated() <= W.nbytes + (2 << 30)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_picks_on_mnist_are_those_of_float64(mnist, alpha):
    X, y = (mnist.X_train / mnist.full_scale).astype(np.float32), mnist.y_train
    W = (np.random.default_rng(0).standard_normal((784, 20_000)) * (2 / 784) ** 0.5).astype(np.float32)
    exact = nc_fast.ib_scores(nc_fast.class_moments(W.astype(np.float64), X.astype(np.float64), y, backend="cpu"), alpha=alpha)
    expected = nc_fast.select(W, exact, 1000, backend="cpu").indices
    found = nc_fast.campaign(torch.from_numpy(W).cuda(), torch.from_numpy(X).cuda(), y, 1000, alpha=alpha, backend="gpu").indices
    np.testing.assert_array_equal(found.cpu(), expected)
