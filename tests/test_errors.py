"""Bad input gets one clear error, before any work, naming the argument, what was expected and what came."""

import subprocess
import sys

import numpy as np
import pytest

import nc_fast

N, D, M = 12, 4, 9


def good():
    rng = np.random.default_rng(0)
    return {"W_candidates": rng.normal(size=(D, M)), "X": rng.normal(size=(N, D)), "y": np.arange(N) % 3, "k": 3}


def with_value(array, position, value):
    array = np.array(array, float)
    array[position] = value
    return array


GOOD = good()
CASES = [
    ("W ndim", {"W_candidates": np.ones(4)}, ValueError, r"W_candidates: expected shape \(D, M\), got \(4,\)"),
    ("W ints", {"W_candidates": np.ones((D, M), int)}, TypeError, "W_candidates: expected float32 or float64, got int64"),
    ("W half", {"W_candidates": np.ones((D, M), np.float16)}, TypeError, "got float16; 16-bit floats need backend='gpu'"),
    ("W complex", {"W_candidates": np.ones((D, M), complex)}, TypeError, "W_candidates: expected float32 or float64, got complex128"),
    (
        "W empty",
        {"W_candidates": np.ones((D, 0))},
        ValueError,
        r"W_candidates: expected at least one row and one column, got shape \(4, 0\)",
    ),
    ("W masked", {"W_candidates": np.ma.masked_array(np.ones((D, M)))}, TypeError, "W_candidates: expected an array without a mask"),
    ("W ragged", {"W_candidates": [[1.0], [1.0, 2.0]]}, TypeError, "W_candidates: expected an array, got list that is not rectangular"),
    ("W None", {"W_candidates": None}, TypeError, "W_candidates: expected an array, got NoneType"),
    ("W nan", {"W_candidates": with_value(GOOD["W_candidates"], (2, 5), np.nan)}, ValueError, r"W_candidates: .* got nan at \(2, 5\)"),
    ("X shape", {"X": np.ones((N, D + 1))}, ValueError, r"X: expected shape \(N, D\) = \(N, 4\) to match W, got \(12, 5\)"),
    ("X ndim", {"X": np.ones((N, D, 1))}, ValueError, r"X: expected shape \(N, D\), got \(12, 4, 1\)"),
    ("X complex", {"X": np.ones((N, D), complex)}, TypeError, "X: expected float32 or float64 or integer, got complex128"),
    ("X object", {"X": np.full((N, D), "a", object)}, TypeError, "X: expected float32 or float64 or integer, got object"),
    ("X empty", {"X": np.ones((0, D)), "y": []}, ValueError, r"X: expected at least one row and one column, got shape \(0, 4\)"),
    ("X inf", {"X": with_value(GOOD["X"], (11, 3), -np.inf)}, ValueError, r"X: expected finite numbers, got -inf at \(11, 3\)"),
    ("y length", {"y": np.arange(N - 1) % 3}, ValueError, r"y: expected shape \(N,\) = \(12,\), got \(11,\)"),
    (
        "y float",
        {"y": np.linspace(0, 1, N)},
        TypeError,
        r"y: expected integer, boolean or string labels, got float64; bin it first: numpy.digitize",
    ),
    ("y dates", {"y": np.zeros(N, "datetime64[D]")}, TypeError, "y: expected integer, boolean or string labels, got datetime64"),
    ("y ragged", {"y": np.array([[1], [1, 2]] * 6, object)}, TypeError, "y: expected an array, got list that is not rectangular"),
    ("y one class", {"y": np.zeros(N, int)}, ValueError, r"y: expected at least two classes when alpha < 1, got 1: \[0\]"),
    ("k zero", {"k": 0}, ValueError, "k: expected 1 <= k <= M = 9, got 0"),
    ("k large", {"k": 10}, ValueError, "k: expected 1 <= k <= M = 9, got 10"),
    ("k float", {"k": 2.0}, TypeError, "k: expected an integer, got 2.0"),
    ("k bool", {"k": True}, TypeError, "k: expected an integer, got True"),
    ("bias shape", {"bias": np.ones(M + 1)}, ValueError, r"bias: expected a number or shape \(M,\) = \(9,\), got \(10,\)"),
    ("bias kind", {"bias": "zero"}, TypeError, r"bias: expected a number, \(M,\) numbers or 'center', got 'zero'"),
    ("bias nan", {"bias": with_value(np.zeros(M), 4, np.nan)}, ValueError, r"bias: expected finite numbers, got nan at \(4,\)"),
    ("bias inf", {"bias": float("inf")}, ValueError, r"bias: expected finite numbers, got inf"),
    ("alpha range", {"alpha": 1.5}, ValueError, r"alpha: expected a number in \[0, 1\], got 1.5"),
    ("alpha nan", {"alpha": float("nan")}, ValueError, r"alpha: expected a number in \[0, 1\], got nan"),
    ("alpha complex", {"alpha": 0.5 + 0j}, TypeError, r"alpha: expected a number in \[0, 1\], got \(0.5\+0j\)"),
    ("alpha kind", {"alpha": "half"}, TypeError, r"alpha: expected a number in \[0, 1\], got 'half'"),
    (
        "activation",
        {"activation": "rleu"},
        ValueError,
        "activation: expected one of 'identity', 'relu', .* got 'rleu'; did you mean 'relu'",
    ),
    ("activation kind", {"activation": 3}, TypeError, "activation: expected one of .*, got 3"),
    ("activation shape", {"activation": lambda z: z[0]}, ValueError, r"activation: expected a callable that keeps the shape \(12, 9\)"),
    ("backend", {"backend": "cuda"}, ValueError, "backend: expected one of 'auto', 'reference', 'cpu', 'gpu', got 'cuda'"),
    ("precision", {"precision": "fp16"}, ValueError, "precision: expected one of 'auto', got 'fp16'"),
    ("method", {"method": "exactly"}, ValueError, "method: expected one of .* got 'exactly'; did you mean 'exact'"),
]


@pytest.mark.parametrize(("change", "error", "message"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_campaign(change, error, message):
    with pytest.raises(error, match=message) as caught:
        nc_fast.campaign(**{**good(), **change})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [(0, 0), (1, 2), (600_000, 1), (1_499_999, 3)])
def test_the_first_nan_is_found_wherever_it_is(position):
    X = np.zeros((1_500_000, 4), np.float32)  # read by several threads
    X[position] = np.nan
    X[1_499_999, 3] = np.inf
    expected = "inf" if position == (1_499_999, 3) else "nan"
    with pytest.raises(ValueError, match=rf"X: expected finite numbers, got {expected} at \({position[0]}, {position[1]}\)"):
        nc_fast.class_moments(np.ones((4, 2), np.float32), X, np.arange(1_500_000) % 2)


def test_huge_but_finite_numbers_are_taken():
    X = np.full((1000, 4), 3e38, np.float32)
    nc_fast.class_moments(np.full((4, 2), 1e-38, np.float32), X, np.arange(1000) % 2)


@pytest.mark.filterwarnings("ignore:(overflow|invalid value) encountered")
@pytest.mark.parametrize("scale", [1e160, 1e300], ids=["their squares", "they themselves"])
def test_activations_that_overflow_are_not_scored(backend, scale):
    arguments = {**good(), "W_candidates": good()["W_candidates"] * scale, "backend": backend}
    with pytest.raises(ValueError, match=r"W, X, bias: expected activations with finite moments, got an overflow"):
        nc_fast.campaign(**arguments | {"X": 1e10 * good()["X"]})


def test_a_mask_around_a_memory_map_is_seen(tmp_path):
    mapped = np.memmap(tmp_path / "X", float, "w+", shape=(N, D))
    with pytest.raises(TypeError, match="X: expected an array without a mask, got a masked array"):
        nc_fast.campaign(**{**good(), "X": np.ma.masked_array(mapped, mask=np.eye(N, D))})


@pytest.mark.parametrize("name", ["W_candidates", "X", "y", "bias"])
def test_tensors_without_numbers_that_numpy_can_read(name):
    torch = pytest.importorskip("torch")
    array = torch.ones((N,) if name == "y" else (M,) if name == "bias" else (D, M) if name == "W_candidates" else (N, D))
    message = "on the device of W, cpu, or in host memory, got meta" if name == "X" else "a tensor with values, got one on the meta device"
    with pytest.raises(ValueError, match=f"{name}: expected {message}"):
        nc_fast.campaign(**{**good(), name: array.to("meta")})
    with pytest.raises(TypeError, match=f"{name}: expected a dtype that NumPy has too, or bfloat16, got float8_e5m2"):
        nc_fast.campaign(**{**good(), name: array.to(torch.float8_e5m2)})


SELECT_CASES = [
    ("no groups", {"groups": None}, ValueError, r"groups: expected \(M,\) labels"),
    ("groups length", {"groups": [0, 1]}, ValueError, r"groups: expected shape \(N,\) = \(9,\), got \(2,\)"),
    ("scores length", {"scores": np.ones(8)}, ValueError, r"scores: expected shape \(M,\) = \(9,\), got \(8,\)"),
    ("scores kind", {"scores": np.full(M, "a")}, TypeError, "scores: expected Scores or"),
    ("given kind", {"given": [1.0]}, TypeError, r"^given: expected \(n,\) integers, got float64$"),
    ("given shape", {"given": [[1, 2]]}, ValueError, r"^given: expected \(n,\) integers, got shape \(1, 2\)$"),
    ("given twice", {"given": [1, 2, 1]}, ValueError, "^given: expected distinct integers from 0 to M - 1 = 8, got 1 twice$"),
    ("given outside", {"given": [9, 1]}, ValueError, "^given: expected distinct integers from 0 to M - 1 = 8, got 9$"),
    ("given many", {"given": np.arange(8)}, ValueError, "^given: expected at most M - k = 9 - 2 candidates, got 8$"),
    ("scores nan", {"scores": with_value(np.ones(M), 3, np.nan)}, ValueError, r"scores: expected finite numbers, got nan at \(3,\)"),
]


@pytest.mark.parametrize(("change", "error", "message"), [case[1:] for case in SELECT_CASES], ids=[case[0] for case in SELECT_CASES])
def test_select(change, error, message):
    arguments = {"W": good()["W_candidates"], "scores": np.ones(M), "k": 2, "groups": np.arange(M) % 2, **change}
    with pytest.raises(error, match=message):
        nc_fast.select(**arguments)


def test_groups_beside_scores_that_have_their_own():
    W = good()["W_candidates"]
    scores = nc_fast.ib_scores(nc_fast.class_moments(W, GOOD["X"], GOOD["y"]))
    with pytest.raises(ValueError, match="groups: expected None"):
        nc_fast.select(W, scores, 2, groups=np.zeros(M, int))
    with pytest.raises(ValueError, match="scores: expected 8 candidates, the columns of W, got 9"):
        nc_fast.select(W[:, :8], scores, 2)


@pytest.mark.parametrize(
    ("batches", "error", "message"),
    [
        ([], ValueError, "X: expected at least one batch"),
        (3, TypeError, "y: expected .* labels, or X as an iterable"),
        (np.ones((N, D)), TypeError, "y: expected .* labels, or X as an iterable"),
        ([np.ones((N, D))], TypeError, "X: expected batches"),
        ([(GOOD["X"], GOOD["y"]), (GOOD["X"], GOOD["y"][:-1])], ValueError, r"batch 1: y: expected shape"),
    ],
)
def test_batches(batches, error, message):
    with pytest.raises(error, match=message):
        nc_fast.class_moments(good()["W_candidates"], batches)


def test_moments_of_different_pools_do_not_add():
    a, b = (nc_fast.class_moments(GOOD["W_candidates"][:, :m], GOOD["X"], GOOD["y"]) for m in (3, 4))
    with pytest.raises(ValueError, match="ClassMoments: expected 3 candidates in both, got 4"):
        a + b
    with pytest.raises(TypeError):
        a + 1


def test_a_gpu_asked_for_where_none_is_says_what_to_do():
    script = "import numpy as np, nc_fast; nc_fast.campaign(np.ones((2, 3)), np.ones((4, 2)), [0, 1, 0, 1], 2, backend='gpu')"
    clean = {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", script], env=clean, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].startswith("ValueError: backend: expected one that can run here (reference, cpu), got 'gpu'; ")
    assert "backend='cpu'" in done.stderr or 'pip install "nc_fast[gpu]"' in done.stderr


def test_a_triton_too_old_says_what_to_do(monkeypatch):
    triton = pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")  # no kernel runs
    monkeypatch.setattr(triton, "__version__", "3.4.0")
    with pytest.raises(ValueError, match=r"got 'gpu'; the GPU backend needs triton 3\.5 or later, not 3\.4: pip install") as caught:
        nc_fast.campaign(**good(), backend="gpu")
    assert "\n" not in str(caught.value)
