"""Samples whose labels stand for no class: results are those of the same call without them, and nothing happens in silence."""

import warnings

import numpy as np
import pytest
from label_cases import FUNCTIONS, STREAMED, TARGETS_TOO, N, W, X, Y, campaign, class_moments, name_of, pursuit, ridge_head, same
from stream_cases import OnlySlices, batches, drawn_problem, same_bits

import nc_fast
from nc_fast.inputs import checks, sources
from nc_fast.inputs.labels import IGNORE_INDEX, ignored

GONE = np.arange(N) % 5 == 0
DIRTY = np.where(GONE[:, None], np.nan, X)  # what is left out is not looked at
WORDS = np.array(["ant", "bee", "cat"])

functions = pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
streamed = pytest.mark.parametrize("function", STREAMED, ids=lambda function: function.__name__)


def marked(y, label):
    return np.where(GONE, label, y)


@functions
@pytest.mark.parametrize(
    ("y", "label", "value"),
    [
        (Y, -100, [-100]),
        (Y.astype(np.int8), -100, -100),
        (Y.astype(np.uint8), 255, np.uint8(255)),
        (Y, -1, [255, -1]),
        (WORDS[Y], "", ""),
        (WORDS[Y], "unlabelled", ("unlabelled", -100)),
        (WORDS.astype("S")[Y], b"void", b"void"),
    ],
)
def test_results_are_those_without_the_samples(function, y, label, value):
    expected = function(X[~GONE], y[~GONE])
    same(function(DIRTY, marked(y, label), ignore_index=value), expected)
    same(function(DIRTY, marked(y, label).tolist(), ignore_index=value), expected)


@functions
def test_the_default_leaves_out_torchs_label_and_says_so_once(function):
    y = marked(Y, -100)
    expected = function(X[~GONE], Y[~GONE])
    with pytest.warns(UserWarning, match=rf"^{name_of(function)}: left out 48 of 240 samples, labelled -100; ") as told:
        same(function(X, y), expected)
    assert [warning.filename for warning in told] == [campaign.__code__.co_filename]
    kept = function(X, y, ignore_index=None)
    assert any(mine.shape != theirs.shape or (mine != theirs).any() for mine, theirs in zip(kept, expected, strict=True))


@functions
@pytest.mark.parametrize("value", [-100, (-100,), None, 7])
def test_nothing_is_said_where_nothing_was_left_out_unasked(function, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(X, Y if value == 7 else marked(Y, -100), ignore_index=value)
        function(X, Y)


@functions
def test_nothing_but_such_labels_is_an_error(function):
    with pytest.raises(
        ValueError, match=rf"^{name_of(function)}: expected labels other than ignore_index = -100, got no others on all 240"
    ):
        function(X, np.full(N, -100))


@functions
@pytest.mark.parametrize("form", ["memmap", "slices", "csr", "coo", "torch", "DataFrame"])
def test_every_form_of_samples(function, form, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "BLOCK_ROWS", (16, 16))  # many slices; some hold nothing that counts
    gone = GONE | ((np.arange(N) > 60) & (np.arange(N) < 130))
    y, plain = np.where(gone, -100, Y), X
    dirty = np.where(gone[:, None], np.nan, X)
    if form == "memmap":
        source = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
        source[...] = dirty
        plain = np.memmap(tmp_path / "kept", X.dtype, "w+", shape=(N - gone.sum(), X.shape[1]))
        plain[...] = X[~gone]
    elif form == "torch":
        torch = pytest.importorskip("torch")
        source, y, plain = torch.from_numpy(dirty), torch.from_numpy(y), torch.from_numpy(X[~gone])
    elif form == "DataFrame":
        source = pytest.importorskip("pandas").DataFrame(dirty)
    elif function is ridge_head:
        pytest.skip("takes arrays alone")
    else:
        sparse = pytest.importorskip("scipy.sparse")
        make = OnlySlices if form == "slices" else getattr(sparse, f"{form}_matrix")
        source, plain = make(dirty), make(X[~gone])
    plain = plain[~gone] if plain is X else plain
    same(function(source, y, ignore_index=-100), function(plain, Y[~gone]))
    if form == "slices":
        assert source.rows <= N * (2 if function is pursuit else 3 if function.__name__ == "pairs" else 1)


def test_slices_of_many_blocks_are_read_once_and_give_the_bits_of_the_array():
    W, X, y = drawn_problem()
    gone = np.random.default_rng(0).random(len(y)) < 0.4
    gone[3000:25_000] = True
    source = OnlySlices(np.where(gone[:, None], np.float32(np.nan), X))
    found = nc_fast.class_moments(W, source, np.where(gone, -100, y), ignore_index=-100)
    same_bits(found, nc_fast.class_moments(W, OnlySlices(X[~gone]), y[~gone]))
    assert source.rows <= len(y) - 22_000 + 16_384


@streamed
@pytest.mark.parametrize("sizes", [(7,), (100, 1), (240,)])
def test_streams(function, sizes):
    y, dirty = marked(Y, -100), DIRTY.copy()
    y[50:120], dirty[50:120] = -100, np.inf  # whole batches among them
    with pytest.warns(UserWarning, match=r": left out 104 of 240 samples, labelled -100") as told:
        found = function(list(batches(dirty, y, *sizes)), None)
    assert len(told) == 1
    same(found, function(list(batches(X[y >= 0], y[y >= 0], *sizes)), None))
    with pytest.raises(ValueError, match=r"expected labels other than ignore_index = -100, got no others on all 240 samples"):
        function(list(batches(X, np.full(N, -100), *sizes)), None)


@pytest.mark.parametrize("function", TARGETS_TOO, ids=lambda function: function.__name__)
def test_float_targets_are_never_left_out(function):
    targets = np.where(GONE, -100.0, X[:, 0])
    same(function(X, targets), function(X, targets, ignore_index=None))


def test_weights_go_with_their_samples():
    weights = np.random.default_rng(0).random(N)
    spoilt = np.where(GONE, np.nan, weights)
    found = ridge_head(DIRTY, marked(Y, 9), sample_weight=spoilt, ignore_index=9)
    same(found, ridge_head(X[~GONE], Y[~GONE], sample_weight=weights[~GONE]))
    with pytest.raises(ValueError, match=r"^sample_weight: expected finite numbers, got nan at \(7,\)"):
        ridge_head(X, marked(Y, 9), sample_weight=np.where(np.arange(N) == 7, np.nan, weights), ignore_index=9)


def test_a_bad_number_is_named_at_the_callers_position(tmp_path):
    bad = DIRTY.copy()
    bad[123, 4] = np.inf
    mapped = np.memmap(tmp_path / "X", X.dtype, "w+", shape=X.shape)
    mapped[...] = bad
    sparse = pytest.importorskip("scipy.sparse")
    for source in (bad, mapped, OnlySlices(bad), sparse.csr_matrix(bad), [(bad, marked(Y, -1))]):
        y = None if isinstance(source, list) else marked(Y, -1)
        with pytest.raises(ValueError, match=r"X: expected finite numbers, got inf at \(123, 4\)"):
            class_moments(source, y, ignore_index=-1)


def test_centred_biases_and_checkpoints_count_what_is_kept(tmp_path):
    y = marked(Y, -100)
    expected = nc_fast.class_moments(W, X[~GONE], Y[~GONE], bias="center")
    path = tmp_path / "moments.npz"
    for _ in range(2):
        found = nc_fast.class_moments(W, X, y, bias="center", ignore_index=-100, checkpoint=path)
        np.testing.assert_allclose(found.mean, expected.mean, rtol=1e-12)
    assert nc_fast.ClassMoments.load(path).n_samples == N - GONE.sum()
    same_bits(nc_fast.class_moments(W, X[~GONE], Y[~GONE], bias="center", checkpoint=path), found)  # the very same samples
    with pytest.raises(ValueError, match="made with the same bias"):
        nc_fast.class_moments(W, X, y, bias="center", ignore_index=None, checkpoint=path)


@pytest.mark.parametrize(
    ("y", "ignore", "expected"),
    [
        ([1, -100, 2], (-100,), [0, 1, 0]),
        ([[1, 255], [255, 0]], (255, -1), [[0, 1], [1, 0]]),
        (["a", "-100"], (-100, "b"), None),
        (["a", "b"], (-100, "b"), [0, 1]),
        ([True, False], (1, 0), None),
        ([1.0, -100.0], (-100,), None),
        (np.array([155, 1], np.uint8), (-101, 411), None),
        (np.array([2**64 - 1, 5], np.uint64), (-1, 2**64 - 1), [1, 0]),
        ([1, 2], (), None),
    ],
)
def test_which_labels_are_ignored(y, ignore, expected):
    found = ignored(np.asarray(y), ignore)
    if expected is None:
        assert found is None
    else:
        np.testing.assert_array_equal(found, np.array(expected, bool))


def test_the_argument():
    for value, expected in [(None, ()), (-1, (-1,)), ("", ("",)), ([1, "a"], (1, "a")), (np.array([3]), (3,)), (np.int8(3), (3,))]:
        assert checks.ignore_index(value) == expected
    assert IGNORE_INDEX == -100
    with pytest.raises(TypeError, match=r"^ignore_index: expected an integer, a string, a sequence of these or None, got 2\.5"):
        checks.ignore_index(2.5)
