"""The pursuit of the GPU backend, interpreted, against the float64 reference: picks, ties, ranks, activations, cut pools."""

import numpy as np
import pytest
from gpu_cases import torch
from gpu_pursuit_cases import PRODUCTION, check, count_rounds, few_programs, problem, run, tensor  # noqa: F401 - a fixture

from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.gpu import activations, columns, pursue, runtime
from nc_fast.backends.reference.activations import activations as reference_activations
from nc_fast.backends.reference.pursue import pursue as reference_pursue

pytestmark = pytest.mark.usefixtures("few_programs")


@pytest.mark.parametrize("seed", range(36))
def test_picks_on_random_problems(seed):
    rng = np.random.default_rng(seed)
    n, D, M, C = (int(rng.integers(*limits)) for limits in ((6, 90), (2, 12), (5, 90), (1, 6)))
    W, X, T, bias = problem(rng, n, D, M, C, (np.float32, np.float64)[seed % 2])
    if seed % 3 == 0:  # labels
        T = np.eye(C)[rng.integers(0, C, n)]
        T -= T.mean(axis=0)
    check(W, X, T, bias, int(rng.integers(1, min(M, 14) + 1)), tuple(ACTIVATIONS)[seed % 10], (1e-3, 0.0, 0.1)[seed % 3])


@pytest.mark.parametrize("precision", ["fp16", "tf32", "ieee"])
def test_every_precision_decides_in_float64(rng, precision):
    check(*problem(rng), 8, precision=precision)


def test_picks_with_the_tiles_of_a_launch_and_more_targets_than_a_tile(rng, monkeypatch):
    monkeypatch.setattr(pursue, "pass_constants", PRODUCTION[0])
    monkeypatch.setattr(activations, "ROWS", PRODUCTION[1])
    check(*problem(rng, n=150, C=70, M=50), 5)


def test_ties_go_to_the_lowest_index(rng):
    W, X, T, bias = problem(rng, dtype=np.float64)
    W[:, [1, 66]], bias[[1, 66]] = W[:, [30, 31]], bias[[30, 31]]
    W[:, 40:60], bias[40:60] = -3 * W[:, 20:40], 0  # of the same direction where nothing bends
    bias[20:40] = 0
    check(W, X, T, bias, 12)
    check(W, X, T, bias, 8, "identity")


def test_more_duplicates_of_the_best_than_a_round_computes(rng, monkeypatch):
    W, X, T, bias = problem(rng, M=100)
    best = int(check(W, X, T, bias, 1).indices[0])
    copies = np.setdiff1d(rng.permutation(100)[:75], best)
    W[:, copies], bias[copies] = W[:, [best]], bias[best]
    rounds = count_rounds(monkeypatch)
    found = check(W, X, T, bias, 6)
    assert found.indices[0] == min(copies.min(), best)
    assert 8 <= len(rounds) <= 10  # the first pick waits until all copies have been looked at


def test_equal_gains_of_zero_need_no_more_rounds(rng, monkeypatch):
    W, X, T, bias = problem(rng, M=100)
    rounds = count_rounds(monkeypatch)
    check(W, X, T * 0, bias, 6)
    assert len(rounds) == 6


@pytest.mark.parametrize("damping", [0.0, 1e-3])
def test_dead_columns_come_last(rng, damping):
    W, X, T, bias = problem(rng, M=18)
    W[:, [0, 7]], bias[[3, 9]] = 0, -100
    W[:, 5], bias[5] = 1e-9 * W[:, 6], 1.0  # a deviation at rounding noise
    assert check(W, X, T, bias, 18, damping=damping).filled == 5
    assert run(W, X, T, bias, 18, damping=damping).indices[-5:].tolist() == [0, 3, 5, 7, 9]


@pytest.mark.parametrize(
    ("n", "M", "k", "activation"), [(40, 70, 25, "identity"), (6, 40, 30, "relu"), (1, 5, 3, "tanh"), (12, 3, 3, "elu")]
)
def test_more_picks_than_the_rank(rng, monkeypatch, n, M, k, activation):
    monkeypatch.setattr(columns, "BLOCK_BYTES", 8 * n * 16)
    monkeypatch.setattr(pursue, "REFRESHED", 7)
    monkeypatch.setattr(pursue, "ROUNDS", 4)
    check(*problem(rng, n=n, M=M), k, activation)


@pytest.mark.parametrize("size", [0.9e-3, 1.1e-3])
def test_exhaustion_is_decided_in_float64(rng, size):
    """Residuals of 0.8 and 1.2 millionths of a column's square: float32 columns alone could not tell."""
    W, X, T, bias = problem(rng, n=400, D=3, M=3, dtype=np.float64)
    Q, _ = np.linalg.qr(X - X.mean(axis=0))
    W = np.stack([np.eye(3)[0], np.eye(3)[0] + size * np.eye(3)[1], -np.eye(3)[0] + size * np.eye(3)[2]], axis=1)
    found = check(W, Q, T, bias * 0, 3, "identity", 0.0)
    assert found.filled == (2 if size < 1e-3 else 0)


@pytest.mark.parametrize("samples", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16], ids=str)
def test_half_weights(rng, weights, samples):
    W, X, T, bias = problem(rng)
    check(torch.from_numpy(W).to(weights), torch.from_numpy(np.abs(10 * X)).to(samples), T, bias, 8)


def test_strided_inputs_inference_mode_and_reports(rng, monkeypatch):
    monkeypatch.setattr(pursue, "ROUNDS", 3)
    W, X, T, bias = problem(rng)
    calls = []
    with torch.inference_mode():
        check(torch.from_numpy(W.T.copy()).T, torch.from_numpy(X)[:, :], T, bias, 7, report=lambda *now: calls.append(now))
    assert calls == [(3, 7), (6, 7), (7, 7)]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_callable_is_given_tensors_and_its_type_of_data(rng, dtype):
    seen = set()

    def squared(z):
        seen.add(z.dtype)
        return z**2

    check(*problem(rng, dtype=np.float64), 6, squared, exact_activation=np.square)
    seen.clear()
    W, X, T, bias = problem(rng, dtype=dtype)
    found = run(W, X, T, bias, 6, squared)
    exact = reference_pursue(W, X, T, 6, bias=bias, activation=np.square, damping=1e-3, block=1)
    np.testing.assert_array_equal(found.indices, exact.indices)
    np.testing.assert_allclose(found.gains, exact.gains, rtol=1e-5)
    assert seen == {getattr(torch, np.dtype(dtype).name)}
    with pytest.raises(ValueError, match="activation: expected a tensor of shape"):
        run(W, X, T, bias, 2, lambda z: z.sum(1))


@pytest.mark.parametrize("room", [25, 1])
def test_a_pool_that_does_not_fit_is_cut_by_first_gains(rng, monkeypatch, room):
    W, X, T, bias = problem(rng, n=64, M=80, C=2)
    W[:, 40:], bias[40:] = W[:, :40], bias[:40]  # everything twice: at the border the lower index stays
    monkeypatch.setattr(columns, "BLOCK_BYTES", 8 * 64 * 80)
    monkeypatch.setattr(runtime, "free_bytes", lambda _: 2 * room * (4 * 64 + 8 * 2 + 64))
    found = run(W, X, T, bias, 10)
    kept = max(room, 10)
    first = reference_pursue(W, X, T, 1, bias=bias, activation="relu", damping=1e-3, block=1)
    z = reference_activations(W, X, bias=bias, activation="relu")
    with np.errstate(invalid="ignore"):
        gain = (((z - z.mean(axis=0)) / z.std(axis=0)).T @ T) ** 2
    order = np.argsort(-gain.sum(axis=1).round(6), kind="stable")
    assert order[0] == first.indices[0]
    left = np.sort(order[:kept])
    exact = reference_pursue(W[:, left], X, T, 10, bias=bias[left], activation="relu", damping=1e-3, block=1)
    live = 10 - exact.filled
    np.testing.assert_array_equal(found.indices[:live], left[exact.indices[:live]])
    assert (found.kept, found.filled) == (kept, exact.filled)
    assert len(np.unique(found.indices)) == 10


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 2e-6), (np.float64, 1e-14)])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations(rng, activation, dtype, error):
    W, X, _, bias = problem(rng, n=43, dtype=dtype)
    W /= 4  # exp overflows for gelu_tanh of large negative numbers, rightly; NumPy, which interprets, would warn
    found = activations.activations(*map(tensor, (W, X)), bias=tensor(bias), activation=activation)
    assert found.dtype == getattr(torch, np.dtype(dtype).name)
    exact = reference_activations(W, X, bias=bias, activation=activation)
    np.testing.assert_allclose(found, exact, rtol=0, atol=error * np.abs(exact).max())


def test_activations_of_callables_and_the_processes_setting_of_tf32(rng):
    W, X, _, bias = map(tensor, problem(rng))
    settings = []
    before = torch.backends.cuda.matmul.fp32_precision
    for precision in ("tf32", "auto"):

        def note(z):
            settings.append(torch.backends.cuda.matmul.fp32_precision)
            return z.sin()

        with activations._float32_products(precision):
            settings.append(torch.backends.cuda.matmul.fp32_precision)
        found = activations.activations(W, X, bias=bias, activation=note, precision=precision)
        exact = torch.sin(X.double() @ W.double() + bias)
        np.testing.assert_allclose(found, exact, atol=5e-6)
    assert settings == ["tf32", before, "ieee", before]


def test_tensors_on_the_cpu_are_refused_without_the_interpreter(rng, monkeypatch):
    monkeypatch.setattr(runtime, "InterpretedFunction", type(None))
    with pytest.raises(ValueError, match="W: expected a tensor on a GPU, got one on cpu"):
        run(*problem(rng), 2)
