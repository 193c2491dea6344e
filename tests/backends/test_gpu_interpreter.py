"""Every Triton kernel against the float64 reference, on CPU tensors in Triton's interpreter.

The interpreter is chosen when a kernel is decorated, so the whole run needs TRITON_INTERPRET=1; races, alignment and
bfloat16 products are beyond it (docs/gpu.md).
"""

from dataclasses import replace

import numpy as np
import pytest

from nc_fast.activations import ACTIVATIONS
from nc_fast.backends.reference.moments import class_moments as reference_moments
from nc_fast.backends.reference.select import select as reference_select
from nc_fast.testing import assert_moments_match, assert_picks_follow_rules
from nc_fast.types import ClassMoments

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

from nc_fast.backends.gpu.device import interpreting  # noqa: E402 - after the skips

if not interpreting():
    pytest.skip("needs TRITON_INTERPRET=1 for the whole run", allow_module_level=True)

from nc_fast.backends.gpu import layout as plan  # noqa: E402
from nc_fast.backends.gpu import moments, runtime, select, tiles  # noqa: E402
from nc_fast.backends.gpu.kernels import prepare  # noqa: E402
from nc_fast.backends.gpu.tiles import Arithmetic, Schedule, Tile  # noqa: E402

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


# ------------------------------------------------------------------------------------------------------------- moments


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation(rng, activation, dtype):
    check(*problem(rng, weights=dtype, samples=dtype), activation)


@pytest.mark.parametrize("activation", ["tanh", "elu", "silu"])
def test_small_preactivations_keep_their_relative_accuracy(rng, activation):
    W, X, codes, bias = problem(rng, counts=(20, 13))
    W, bias = W * np.float32(1e-4), bias * 0
    exact = reference_moments(W, X, codes, np.arange(2), bias=bias, activation=activation)
    assert_close_to(run(W, X, codes, bias, activation), exact, 1e-6)


@pytest.mark.parametrize(
    ("counts", "D", "M"), [((16,), 16, 16), ((1,), 1, 1), ((1, 1, 1), 7, 5), ((3,) * 20, 5, 40), ((7, 0, 50), 33, 17)], ids=str
)
def test_every_shape(rng, counts, D, M):
    W, X, codes, bias = problem(rng, counts, D, M)
    check(W, X, codes, bias, classes=np.arange(len(counts)))


@pytest.mark.parametrize(("precision", "tolerance"), [("auto", 1e-6), ("ieee", 1e-6), ("fp16", 3e-3), ("tf32", 3e-3)])
def test_every_precision(rng, precision, tolerance):
    W, X, codes, bias = problem(rng)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="gelu")
    found = run(W, X, codes, bias, "gelu", precision)
    assert_close_to(found, exact, tolerance)
    if tolerance > 1e-4:
        with pytest.raises(AssertionError):
            assert_close_to(found, exact, 1e-6)


@pytest.mark.parametrize("samples", ["float64", "float16", "bfloat16", "uint8", "int8", "bool", "uint16", "int64"])
def test_every_type_of_samples(rng, samples):
    W, X, codes, bias = problem(rng)
    X = torch.from_numpy(np.rint(100 * X) if "float" not in samples else X)
    X = (X > 0 if samples == "bool" else X.abs() if samples[0] == "u" else X).to(getattr(torch, samples))
    found = run(W, X, codes, bias)
    exact = reference_moments(W, X.double().numpy(), codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(found, exact, 1e-6)


def test_integers_beyond_int64(rng):
    W, X, codes, bias = problem(rng)
    W = W * np.float32(1e-4)  # squares of activations are float32 here
    X = rng.integers(0, 2**64, size=X.shape, dtype=np.uint64)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(run(W, X, codes, bias), exact, 1e-5)


@pytest.mark.parametrize("samples", [torch.float32, torch.uint8], ids=str)
@pytest.mark.parametrize("weights", [torch.float16, torch.bfloat16], ids=str)
def test_half_weights(rng, weights, samples):
    W, X, codes, bias = problem(rng)
    W, X = torch.from_numpy(W).to(weights), torch.from_numpy(np.abs(10 * X)).to(samples)
    exact = reference_moments(W.double().numpy(), X.double().numpy(), codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    assert_close_to(run(W, X, codes, bias), exact, 1e-6)


def test_low_parts_are_left_out_only_where_they_are_zero(rng):
    features = moments._features(torch.ones(3, 2, dtype=torch.uint8), torch.device("cpu"))
    assert features.centred
    plain = replace(features, centred=False)
    cases = {
        (torch.float32, torch.float32): (True, True),
        (torch.bfloat16, torch.float32): (False, True),
        (torch.float32, torch.uint8): (True, False),
        (torch.float16, torch.bool): (False, False),
        (torch.float32, torch.int16): (True, True),
    }
    for (weights, samples), low in cases.items():
        assert moments._arithmetic("auto", weights, samples, plain) == Arithmetic("float16", *low)
    assert moments._arithmetic("auto", torch.float16, torch.uint8, features).samples_low
    assert moments._arithmetic("auto", torch.float32, torch.float32, replace(plain, spread=True)) == Arithmetic("float32")


@pytest.mark.parametrize("layout", ["transposed", "sliced", "stepped", "reversed copy"])
def test_every_memory_layout(rng, layout):
    W, X, codes, bias = problem(rng, counts=(20, 3))
    views = {
        "transposed": lambda a: torch.from_numpy(np.ascontiguousarray(a.T)).T,
        "sliced": lambda a: torch.from_numpy(np.pad(a, 3))[3:-3, 3:-3],
        "stepped": lambda a: torch.from_numpy(np.repeat(np.repeat(a, 2, 0), 3, 1))[::2, ::3],
        "reversed copy": lambda a: torch.from_numpy(a[::-1, ::-1].copy()).flip(0, 1),
    }
    plain, other = run(W, X, codes, bias), run(views[layout](W), views[layout](X), codes, bias)
    assert torch.equal(plain.mean, other.mean)
    assert torch.equal(plain.m2, other.m2)


def test_inputs_are_left_as_they_were_and_inference_mode_works(rng):
    given = problem(rng)
    kept = [np.copy(value) for value in given]
    with torch.inference_mode():
        check(*given)
    for value, copy in zip(given, kept, strict=True):
        np.testing.assert_array_equal(value, copy)


def test_bits_do_not_depend_on_free_memory(rng, monkeypatch):
    given = problem(rng, counts=(20, 3), D=5, M=70)
    whole = run(*given)
    monkeypatch.setattr(plan, "POOL_BYTES", 1)
    calls = []
    blocks = run(*given, report=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in (1, 2, 3, 4, 5)]
    assert torch.equal(whole.mean, blocks.mean)
    assert torch.equal(whole.m2, blocks.m2)


def test_chunks_of_samples_are_merged(rng, monkeypatch):
    monkeypatch.setattr(plan, "SAMPLES_BYTES", 5000)
    monkeypatch.setattr(moments, "TILE_BYTES", 19 * 8 * 7)
    given = problem(rng)
    calls = []
    check(*given, report=lambda done, total: calls.append((done, total)))
    assert calls[-1][0] == calls[-1][1] > 2


def test_tensor_maps_give_the_bits_of_pointers(rng, monkeypatch):
    given = problem(rng)
    pointers = run(*given)
    mapped = Schedule(Tile(16, 16, 16, 4, 1), Tile(16, 16, 16, 4, 1), tma=True)
    monkeypatch.setattr(tiles, "schedule", lambda *_, **__: mapped)
    maps = check(*given)
    assert torch.equal(pointers.mean, maps.mean)
    assert torch.equal(pointers.m2, maps.m2)


def test_tiles_of_different_sizes(rng, monkeypatch):
    chosen = Schedule(Tile(32, 32, 16, 4, 1), Tile(32, 16, 16, 4, 1))
    monkeypatch.setattr(tiles, "schedule", lambda *_, **__: chosen)
    monkeypatch.setattr(plan, "run_tiles", lambda *_: 2)
    monkeypatch.setattr(tiles, "GROUP", 2)
    check(*problem(rng, counts=(100, 5, 64, 31), M=150))


def test_streaming_gives_the_same_tiles(rng):
    X = torch.from_numpy(rng.normal(size=(23, 3)))
    rows = torch.from_numpy(rng.permutation(23))
    spans = [slice(0, 8), slice(8, 16), slice(16, 23)]
    for chosen in (None, rows):
        tiles = [tile.clone() for tile in moments._streamed(X, chosen, spans, torch.device("cpu"))]
        assert torch.equal(torch.cat(tiles), X if chosen is None else X[chosen])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_constant_activation_has_exactly_no_spread(rng, activation, dtype):
    W, X, codes, bias = problem(rng, weights=dtype, samples=dtype)
    W[:, ::2] = 0
    assert_no_spread(run(W, X, codes, bias, activation), slice(None, None, 2))
    assert_no_spread(run(W + 1, np.repeat(X[:1], len(X), 0), codes, bias, activation), slice(None))


def assert_no_spread(found, columns):
    assert (found.spread()[columns] == 0).all()
    assert (found.m2[:, columns] == 0).all()
    assert (found.mean[:, columns] == found.mean[0, columns]).all()


@pytest.mark.parametrize("offset", [0.0, 3.0, 60.0])
def test_a_dead_relu_has_exactly_no_spread(rng, offset):
    W, X, codes, bias = problem(rng)
    X, W = np.abs(X) + np.float32(offset), -np.abs(W)
    bias = np.where(np.arange(len(bias)) % 2, 0, X.max(axis=1).min() * np.abs(W).max(axis=0) * 0.01)
    exact = reference_moments(W, X, codes, np.arange(len(RAGGED)), bias=bias, activation="relu")
    dead = (exact.mean == 0).all(axis=0)
    assert dead.any()
    assert_no_spread(run(W, X, codes, bias), torch.from_numpy(dead))


def test_zero_rows_keep_a_dead_relu_dead(rng):
    W, X, codes, bias = problem(rng)
    X, W = np.abs(X), -np.abs(W)
    X[::5] = 0
    assert_no_spread(run(W, X, codes, bias * 0), slice(None))


def test_a_one_row_class_has_exactly_no_deviations(rng):
    assert (check(*problem(rng, counts=(1, 30, 1)), "tanh").m2[[0, 2]] == 0).all()


def test_features_far_from_zero_and_of_all_sizes(rng):
    W, X, codes, bias = problem(rng, offset=50.0)
    check(W, X, codes, bias)
    size = np.ldexp(1.0, rng.integers(-30, 30, X.shape[1]))
    check((W / size[:, None]).astype(np.float32), (X * size).astype(np.float32), codes, bias)


def test_features_with_outliers_fall_back_to_float32(rng):
    W, X, codes, bias = problem(rng)
    X[3, 4] = 1e7
    assert moments._features(torch.from_numpy(X), torch.device("cpu")).spread
    check(W, X, codes, bias)


def test_candidates_of_all_sizes(rng):
    W, X, codes, bias = problem(rng)
    size = np.ldexp(1.0, rng.integers(-60, 60, W.shape[1])).astype(np.float32)
    check(W * size, X, codes, bias * size)


def test_a_callable_is_given_tensors_and_its_type_of_data(rng):
    seen = set()

    def squared(z):
        seen.add(z.dtype)
        return z**2

    for dtype in (np.float32, np.float64):
        W, X, codes, bias = problem(rng, weights=dtype, samples=dtype)
        found = run(W, X, codes, bias, squared)
        exact = reference_moments(W, X, codes, found.classes, bias=bias, activation=lambda z: z**2)
        assert_close_to(found, exact, 1e-6 if dtype is np.float32 else 1e-12)
    assert seen == {torch.float32, torch.float64}


def test_a_callable_over_several_blocks_and_chunks(rng, monkeypatch):
    monkeypatch.setattr(moments, "CALLABLE_BYTES", 8 * 256 * 6)
    W, X, codes, bias = problem(rng, counts=(300, 0, 301), D=3, M=11)
    W[:, 4] = 0
    found = run(W, X, codes, bias, torch.relu, classes=np.arange(3))
    assert_close_to(found, reference_moments(W, X, codes, found.classes, bias=bias, activation="relu"), 1e-6)
    assert (found.m2[:, 4] == 0).all()
    assert found.mean[0, 4] == found.mean[2, 4]


def test_a_callable_must_keep_the_shape(rng):
    with pytest.raises(ValueError, match="activation: expected a tensor of shape"):
        run(*problem(rng), lambda z: z.sum(1))


def test_packing_keeps_22_bits_and_rounds_tf32_to_nearest(rng):
    source = torch.from_numpy(rng.normal(size=(5, 7)))
    shift, scale = torch.from_numpy(rng.normal(size=7)), torch.ldexp(torch.ones(7, dtype=torch.float64), torch.arange(7))
    row_scale = torch.full((5,), 16.0, dtype=torch.float64)
    exact = (source - shift) * scale * row_scale[:, None]
    for arithmetic, low, error in ((Arithmetic("float16"), True, 2**-22), (Arithmetic("float32", dot="tf32"), False, 2**-11)):
        packed = torch.full((6, 32), torch.nan, dtype=getattr(torch, arithmetic.number))
        moments._pack(source, shift, scale, row_scale, packed, 16, low=low, arithmetic=arithmetic)
        got = packed[:5, :7].double() + (packed[:5, 16:23].double() if low else 0)
        assert ((got - exact).abs() <= error * exact.abs()).all()
        assert (packed[5:, :16] == 0).all()
        assert (packed[:, 7:16] == 0).all()


# ----------------------------------------------------------------------------------------------------------- selection


def picks_of(W, score, pool, quota, **options):
    tensors = [value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value)) for value in (W, score, pool, quota)]
    return select.select(*tensors, **options)


def check_picks(W, score, pool, quota):
    found, exact = picks_of(W, score, pool, quota), reference_select(W, score, pool, quota)
    np.testing.assert_array_equal(found.indices.numpy(), exact.indices)
    np.testing.assert_allclose(found.gains.numpy(), exact.gains, rtol=1e-9, atol=1e-14)
    assert found.restarts == exact.restarts
    assert_picks_follow_rules(found, W, score, pool, quota)


SCORES = {
    "mixed": lambda rng, M: rng.normal(size=M),
    "positive": lambda rng, M: rng.uniform(0.5, 1, M),
    "negative": lambda rng, M: -rng.uniform(0.5, 1, M),
    "equal": lambda _, M: np.ones(M),
    "equal and negative": lambda _, M: -np.ones(M),
    "zero": lambda _, M: np.zeros(M),
}


@pytest.fixture
def small_windows(monkeypatch):
    """Windows of 16 candidates: the bound is at work, and the interpreter is quick."""
    monkeypatch.setattr(select, "SMALLEST_WINDOW", 16)
    monkeypatch.setattr(select, "LARGEST_WINDOW", 16)


@pytest.mark.parametrize("scores", SCORES)
@pytest.mark.parametrize("D", [4, 24])
def test_picks_with_ties_duplicates_and_exhausted_rank(rng, small_windows, D, scores):
    M = 70
    W, score = rng.normal(size=(D, M)), SCORES[scores](rng, M)
    W[:, 30], W[:, 31], W[:, 60] = W[:, 3], 3 * W[:, 3], -W[:, 50]
    score[[30, 31]], score[60] = score[3], score[50]
    check_picks(W, score, rng.integers(-1, 3, M), np.array([7, 3, 9]))
    check_picks(W.astype(np.float32), score, np.zeros(M, np.int64), np.array([27]))


@pytest.mark.parametrize("scores", ["mixed", "equal"])
def test_picks_from_windows_that_hold_the_whole_pool(rng, scores):
    check_picks(rng.normal(size=(9, 50)), SCORES[scores](rng, 50), np.zeros(50, np.int64), np.array([20]))


@pytest.mark.parametrize("seed", range(12))
def test_picks_of_small_integers(small_windows, seed):
    rng = np.random.default_rng(seed)
    D, M, P = rng.integers(2, 6), rng.integers(20, 60), rng.integers(1, 4)
    W, score = rng.integers(-1, 2, (D, M)).astype(float), rng.integers(-2, 3, M).astype(float)
    pool = rng.integers(-1, P, M)
    check_picks(W, score, pool, np.array([rng.integers(0, (pool == p).sum() + 1) for p in range(P)]))


@pytest.mark.parametrize("noise", [1e-2, 1e-4, 1e-6])
def test_picks_among_nearly_parallel_vectors(rng, small_windows, noise):
    W = rng.normal(size=(12, 1)) + noise * rng.normal(size=(12, 60))
    check_picks(W, rng.uniform(0.5, 1, 60), np.zeros(60, np.int64), np.array([20]))


def test_picks_of_vectors_of_all_sizes(rng, small_windows):
    W = rng.normal(size=(9, 80)) * 10.0 ** rng.integers(-150, 150, 80)
    check_picks(W, rng.normal(size=80), np.zeros(80, np.int64), np.array([20]))


def test_picks_in_batches_and_chunks(rng, monkeypatch, small_windows):
    monkeypatch.setattr(select, "BATCH_BYTES", 1)
    monkeypatch.setattr(select, "CHUNK_BYTES", 8 * 20 * 17)
    W, score = rng.normal(size=(20, 100)), rng.uniform(0.9, 1, 100)
    check_picks(W, score, rng.integers(0, 2, 100), np.array([15, 18]))


def test_picks_from_no_pool_and_for_no_quota():
    check_picks(np.eye(3), np.ones(3), np.array([-1, -1, -1]), np.array([0]))
    check_picks(np.eye(3), np.ones(3), np.array([0, 1, 1]), np.array([0, 2]))


def test_selection_reports_and_works_on_strided_halves_in_inference_mode(rng):
    W = torch.from_numpy(rng.normal(size=(60, 8)).astype(np.float16)).T
    score, pool, quota = rng.normal(size=60), np.zeros(60, np.int64), np.array([7])
    calls = []
    with torch.inference_mode():
        found = picks_of(W, score, pool, quota, report=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (7, 7)
    np.testing.assert_array_equal(found.indices, reference_select(W.numpy(), score, pool, quota).indices)


def test_most_picks_need_few_rounds(rng):
    calls = []
    given = rng.normal(size=(64, 500)), rng.normal(size=500), np.zeros(500, np.int64), np.array([40])
    picks_of(*given, report=lambda *now: calls.append(now))
    assert len(calls) <= 4


# ------------------------------------------------------------------------------------------------------------ sabotage


def sabotage(monkeypatch, module, name, change):
    original = getattr(module, name)
    monkeypatch.setattr(module, name, lambda *args, **options: change(original(*args, **options)))


LIES_ABOUT_MOMENTS = {
    "a slot's count is off": lambda m: sabotage(m, plan, "sample_layout", lambda made: replace(made, slot_count=made.slot_count + 1)),
    "two slots are swapped": lambda m: sabotage(m, plan, "sample_layout", lambda made: replace(made, slot=made.slot[::-1].copy())),
    "padding counts as samples": lambda m: sabotage(
        m, plan, "sample_layout", lambda made: replace(made, part_row=np.append(made.part_row[:-1], made.packed_rows).astype(np.int32))
    ),
    "the last sample is another's": lambda m: sabotage(
        m, plan, "sample_layout", lambda made: replace(made, source=np.append(made.source[:-1], made.source[0]))
    ),
    "the low parts are lost": lambda m: sabotage(
        m, moments, "_arithmetic", lambda made: replace(made, weights_low=False, samples_low=False)
    ),
    "a feature's shift is lost": lambda m: sabotage(m, moments, "_features", lambda made: replace(made, shift=made.shift + 1)),
    "another activation": lambda m: sabotage(m, tiles, "mixed_constants", lambda made: made | {"ACT": "identity"}),
    "only whole tiles": lambda m: sabotage(m, tiles, "pure_constants", lambda made: made | {"ACT": "tanh"}),
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
        return lambda source, shift, *rest, **options: self._kernel[grid](source, shift * 0, *rest, **options)


def test_the_comparer_rejects_chunks_that_overwrite_each_other(rng, monkeypatch):
    monkeypatch.setattr(plan, "SAMPLES_BYTES", 5000)
    given = problem(rng)
    check(*given)
    monkeypatch.setattr(moments._Moments, "_chunk_counts", _forgetful(moments._Moments._chunk_counts))
    with pytest.raises(AssertionError):
        check(*given)


def _forgetful(chunk_counts):
    """Return ``chunk_counts`` whose result adds nothing to what was merged before."""

    class Zero(np.ndarray):
        def __radd__(self, other):
            return other

        def __array_ufunc__(self, ufunc, method, *inputs, out=None, **options):
            plain = [np.asarray(value) for value in inputs]
            if out is not None:
                return out[0]
            return getattr(ufunc, method)(*plain, **options)

    return lambda self, chunk: chunk_counts(self, chunk).view(Zero)


def test_the_exactness_test_rejects_another_pivot(rng, monkeypatch):
    W, X, codes, bias = problem(rng, counts=(13, 29, 11))  # sums of 13 equal numbers round
    X, W = np.abs(X), -np.abs(W)
    bias = bias * 0 + X.sum(axis=1).min() * np.abs(W).min() * 0.5  # above 0, so that activation(bias) is not the dead one's 0
    assert_no_spread(run(W, X, codes, bias), slice(None))
    sabotage(monkeypatch, moments, "_features", lambda made: replace(made, mean=made.mean * 0))
    with pytest.raises(AssertionError):
        assert_no_spread(run(W, X, codes, bias), slice(None))


class _Greedy:
    """The window's kernel with some of its arguments changed."""

    names = ("Gram", "Squared", "Score", "Index", "Valid", "Bound", "BoundIndex", "Need", "Factor", "Place", "Gain", "InSpan", "Count")

    def __init__(self, kernel, **changes):
        self._kernel, self._changes = kernel, changes

    def __getitem__(self, grid):
        def launch(*args, **options):
            changed = [self._changes.get(name, lambda value: value)(arg) for name, arg in zip(self.names, args, strict=False)]
            self._kernel[grid](*changed, *args[len(changed) :], **options)

        return launch


def random_pool(rng):
    """Two of every vector, scores of both signs and close together, more picks than features."""
    W, score = rng.normal(size=(8, 44)), rng.uniform(0.9, 1, 44) * np.where(np.arange(44) % 4, 1, -1)
    W[:, 22:], score[22:] = W[:, :22], score[:22]
    return W, score, np.zeros(44, np.int64), np.array([38])


def tie_across_the_border(_):
    """Candidate 50, the last in the window of 16, ties with candidate 10 outside; the lower index must win."""
    score = np.zeros(120)
    score[100:115], score[50], score[10] = 2, 1 + 5e-10, 1
    return np.eye(120), score, np.zeros(120, np.int64), np.array([17])


LIES_ABOUT_PICKS = {
    "ties go to the highest index": (random_pool, {"Index": lambda index: 1000 - index}),
    "the bound is ignored": (random_pool, {"Bound": lambda bound: torch.full_like(bound, -torch.inf)}),
    "outside counts as after": (tie_across_the_border, {"BoundIndex": lambda index: torch.full_like(index, 10**6)}),
    "the span is ignored": (random_pool, {"Gram": lambda gram: gram * 0}),
    "scores are magnitudes": (random_pool, {"Score": torch.abs}),
}


@pytest.mark.parametrize("lie", LIES_ABOUT_PICKS)
def test_the_comparer_rejects_wrong_picks(rng, monkeypatch, small_windows, lie):
    pool, change = LIES_ABOUT_PICKS[lie]
    given = pool(rng)
    check_picks(*given)
    monkeypatch.setattr(select, "window_greedy", _Greedy(select.window_greedy, **change))
    with pytest.raises(AssertionError):
        check_picks(*given)


# ------------------------------------------------------------------------------------------------------------- machine


@pytest.mark.parametrize(("capability", "expected"), [((9, 0), "hopper"), ((8, 0), "ampere"), ((8, 6), "nvidia"), ((12, 0), "nvidia")])
def test_tiles_are_chosen_by_the_device(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert runtime.target(torch.device("cuda", 0)) == expected
    monkeypatch.setattr(torch.version, "hip", "7.0")
    assert runtime.target(torch.device("cuda", 0)) == "amd"


def test_tensors_on_the_cpu_are_refused_without_the_interpreter(rng, monkeypatch):
    monkeypatch.setattr(runtime, "InterpretedFunction", type(None))
    with pytest.raises(ValueError, match="W: expected a tensor on a GPU, got one on cpu"):
        run(*problem(rng))
    with pytest.raises(ValueError, match="TRITON_INTERPRET=1"):
        picks_of(np.eye(3), np.ones(3), np.zeros(3, np.int64), np.array([1]))


# -------------------------------------------------------------------------------------------------------------- report


def test_the_gpu_report_runs_at_toy_sizes(tmp_path, capsys):
    import gpu_report

    rows = gpu_report.main(["--tiny", "--out", str(tmp_path / "report.json")])
    assert not [row for row in rows if row.stage == "failed"], capsys.readouterr().out
    assert {"ceiling", "moments", "selection", "campaign", "agreement"} == {row.stage for row in rows}
    assert (tmp_path / "report.json").stat().st_size > 1000


@pytest.mark.parametrize("layout", ["reversed", "packed"])
@pytest.mark.parametrize("shape", [(1, 1), (3, 4)])
def test_layouts_that_torch_does_not_take(layout, shape, rng):
    from nc_fast.backends.gpu.device import as_tensor

    array = rng.normal(size=shape).astype(np.float32)
    packed = np.zeros(shape, [("pad", "u1"), ("value", "f4")])
    packed["value"] = array
    view = packed["value"] if layout == "packed" else array[::-1, ::-1].copy()[::-1, ::-1]
    np.testing.assert_array_equal(as_tensor(view).numpy(), array)
