"""The C++ greedy loop against the NumPy reference, and against itself: lazy, threads, SIMD levels, layouts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from projector_cases import layouts

from nc_fast._projector import greedy_select, simd_level
from nc_fast.backends.cpu.select import select
from nc_fast.backends.reference.select import select as reference
from nc_fast.types import Picks

Case = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def assert_picks_match(actual: Picks, expected: Picks) -> None:
    np.testing.assert_array_equal(actual.indices, expected.indices)
    np.testing.assert_allclose(actual.gains, expected.gains, rtol=1e-8, atol=1e-300)
    assert actual.restarts == expected.restarts
    assert (actual.indices.dtype, actual.gains.dtype) == (np.int64, np.float64)


def run(case: Case, **options: object) -> Picks:
    return Picks(*greedy_select(*case, **options))  # type: ignore[arg-type]


def assert_same_bits(actual: Picks, expected: Picks) -> None:
    np.testing.assert_array_equal(actual.indices, expected.indices)
    np.testing.assert_array_equal(actual.gains, expected.gains)
    assert actual.restarts == expected.restarts


def columns(kind: str, D: int, M: int, rng: np.random.Generator) -> np.ndarray:
    """A matrix of the kind named: the data on which greedy selections are known to go wrong."""
    W = rng.standard_normal((D, M))
    other = rng.integers(0, M, M)
    if kind == "duplicates":
        return W[:, rng.integers(0, max(M // 3, 1), M)]
    if kind == "negated":
        return W[:, other] * rng.choice([-1.0, 1.0], M)
    if kind == "scaled":
        return W[:, rng.integers(0, max(M // 3, 1), M)] * 10.0 ** rng.integers(-14, 15, M)
    if kind == "zero":
        return W * (rng.random(M) < 0.6)
    if kind == "near-collinear":
        return W[:, [0]] + 1e-3 * W
    if kind == "very near-collinear":
        return W[:, [0]] + 3e-5 * W
    if kind == "one-hot":
        return np.eye(D)[:, rng.integers(0, D, M)]
    if kind == "integer":
        return rng.integers(-1, 2, (D, M)).astype(float)
    if kind == "low rank":
        rank = max(D // 3, 1)
        return rng.standard_normal((D, rank)) @ rng.standard_normal((rank, M))
    return W


KINDS = [
    "random", "duplicates", "negated", "scaled", "zero", "near-collinear", "very near-collinear", "one-hot", "integer",
    "low rank",
]  # fmt: skip


def scores(kind: str, M: int, rng: np.random.Generator) -> np.ndarray:
    score = rng.standard_normal(M)
    return {
        "mixed": score,
        "positive": 1 + 0.1 * abs(score),
        "negative": -abs(score),
        "equal": np.ones(M),
        "equal negative": -np.ones(M),
        "zero": np.zeros(M),
        "few values": rng.integers(-1, 2, M).astype(float),
        "huge": score * 1e300,
        "tiny": score * 1e-300,
    }[kind]


SCORES = ["mixed", "positive", "negative", "equal", "equal negative", "zero", "few values", "huge", "tiny"]


def make_case(D: int, M: int, P: int, kind: str, score: str, share: float, dtype: type, seed: int) -> Case:
    rng = np.random.default_rng(seed)
    W = columns(kind, D, M, rng).astype(dtype)
    pool = rng.integers(-1, P, M)
    members = np.bincount(pool[pool >= 0], minlength=P)
    return W, scores(score, M, rng), pool, np.ceil(members * share).astype(np.int64)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("kind", KINDS)
def test_picks_are_the_references(kind: str, score: str, dtype: type) -> None:
    for seed, (D, M, P, share) in enumerate([(13, 97, 3, 0.3), (5, 41, 1, 1.0), (32, 64, 2, 0.5), (1, 7, 1, 1.0)]):
        case = make_case(D, M, P, kind, score, share, dtype, seed)
        assert_picks_match(run(case), reference(*case))


@settings(max_examples=300, deadline=None)
@given(
    D=st.integers(1, 40),
    M=st.integers(1, 60),
    P=st.integers(1, 5),
    kind=st.sampled_from(KINDS),
    score=st.sampled_from(SCORES),
    share=st.floats(0, 1),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_picks_are_the_references_on_any_case(**case_of: object) -> None:
    case = make_case(**case_of)  # type: ignore[arg-type]
    expected = run(case)
    assert_picks_match(expected, reference(*case))
    assert_same_bits(run(case, lazy=False), expected)
    assert_same_bits(run(case, simd="baseline", threads=3), expected)
    begun = expected.indices[: len(expected.indices) // 2]
    assert_same_bits(run(case, given=begun), expected)
    assert_same_bits(run(case, given=begun, lazy=False), expected)


BIG = [
    (97, 1009, 4, "random", "positive", 0.2, np.float32, 0),
    (97, 1009, 4, "random", "equal", 0.4, np.float64, 1),
    (64, 1000, 3, "integer", "mixed", 1.0, np.float32, 2),
    (101, 900, 2, "near-collinear", "positive", 0.3, np.float64, 3),
    (50, 700, 7, "duplicates", "few values", 1.0, np.float32, 4),
    (130, 400, 1, "random", "mixed", 1.0, np.float32, 5),
]


@pytest.mark.parametrize("parameters", BIG)
def test_same_bits_lazy_or_eager_on_any_threads_simd_and_layout(parameters: tuple[object, ...]) -> None:
    case = make_case(*parameters)  # type: ignore[arg-type]
    expected = run(case)
    assert_picks_match(expected, reference(*case))
    for options in [
        {"lazy": False},
        {"threads": 2},
        {"threads": 5},
        {"threads": 2, "lazy": False},
        {"simd": "baseline"},
        {"simd": "baseline", "lazy": False, "threads": 2},
        {"simd": simd_level()},
    ]:
        assert_same_bits(run(case, **options), expected)
    for view in layouts(case[0]).values():
        assert_same_bits(run((view, *case[1:]), threads=2), expected)


def test_every_gain_is_right_and_best() -> None:
    """Replays the picks with a fresh QR a step: shares no code and no method with the engine or the reference."""
    W, score, pool, quota = make_case(20, 60, 1, "random", "mixed", 0.4, np.float64, 11)
    picks = run((W, score, pool, quota))
    left = pool == 0
    for step, pick in enumerate(picks.indices):
        Q = np.linalg.qr(W[:, picks.indices[:step]])[0]
        ratio = np.linalg.norm(W - Q @ (Q.T @ W), axis=0) / np.linalg.norm(W, axis=0)
        gain = np.where(score >= 0, score * ratio, score / ratio)
        np.testing.assert_allclose(picks.gains[step], gain[pick], rtol=1e-9)
        assert gain[pick] >= gain[left].max() - 2e-9 * abs(gain[left].max())
        left[pick] = False


def one_pool(W: np.ndarray, score: list[float], quota: int) -> Case:
    return W, np.array(score), np.zeros(W.shape[1], np.int64), np.array([quota])


def test_ties_go_to_the_lowest_index() -> None:
    W = np.eye(3)
    assert run(one_pool(W, [1.0, 1 + 0.9e-9, 1.0], 3)).indices.tolist() == [0, 1, 2]
    assert run(one_pool(W, [1.0, 1 + 1.1e-9, 1.0], 3)).indices.tolist() == [1, 0, 2]
    assert run(one_pool(W, [-1 - 0.9e-9, -1.0, -1.0], 3)).indices.tolist() == [0, 1, 2]
    assert run(one_pool(W, [-1 - 1.1e-9, -1.0, -1.0], 3)).indices.tolist() == [1, 2, 0]


def test_rank_exhausted_restarts_and_zero_columns_come_last() -> None:
    W = np.array([[0.0, 1.0, 2.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    picks = run(one_pool(W, [-9.0, 1.0, 2.0, -8.0], 4))
    assert picks.indices.tolist() == [2, 1, 0, 3]
    assert picks.gains.tolist() == [2.0, 1.0, -np.inf, -np.inf]
    assert picks.restarts == 2


def test_a_negative_score_is_preferred_far_from_the_span() -> None:
    W = np.array([[1.0, 1.0, 0.0], [0.0, 0.1, 1.0]])
    assert run(one_pool(W, [1.0, -1.0, -2.0], 3)).indices.tolist() == [0, 2, 1]


def test_nothing_eligible_and_nothing_wanted() -> None:
    W = np.ones((3, 4), np.float32)
    for pool, quota in [(np.full(4, -1), []), (np.full(4, -1), [0, 0]), (np.zeros(4, np.int64), [0])]:
        picks = run((W, np.ones(4), pool, np.array(quota, np.int64)), threads=2)
        assert (len(picks.indices), len(picks.gains), picks.restarts) == (0, 0, 0)
    assert len(run((np.ones((3, 0)), np.ones(0), np.zeros(0, np.int64), np.zeros(1, np.int64))).indices) == 0


@pytest.mark.parametrize("exponent", [-300, -30, 30, 300])
def test_the_scale_of_the_weights_does_not_matter(exponent: int) -> None:
    W, score, pool, quota = make_case(15, 50, 2, "random", "mixed", 1.0, np.float64, 12)
    expected = run((W, score, pool, quota))
    mixed = W * 10.0 ** (exponent * np.random.default_rng(0).integers(0, 2, 50))
    for scaled in (W * 10.0**exponent, mixed):
        assert_picks_match(run((scaled, score, pool, quota)), expected)
    if abs(exponent) == 30:
        W32 = W.astype(np.float32)
        scaled32 = np.ldexp(W32, 100 * np.sign(exponent))
        assert_same_bits(run((scaled32, score, pool, quota)), run((W32, score, pool, quota)))


def test_inputs_are_left_alone() -> None:
    case = make_case(20, 80, 2, "random", "mixed", 0.5, np.float32, 13)
    copies = [array.copy() for array in case]
    for array in case:
        array.flags.writeable = False
    run(case)
    for array, before in zip(case, copies, strict=True):
        np.testing.assert_array_equal(array, before)


def test_strided_vectors() -> None:
    W, score, pool, quota = make_case(10, 40, 2, "random", "mixed", 0.5, np.float64, 14)
    strided = (W, np.repeat(score, 2)[::2], pool[::-1].copy()[::-1], np.repeat(quota, 3)[1::3])
    assert_same_bits(run(strided), run((W, score, pool, quota)))


def test_the_backend_is_the_engine() -> None:
    case = make_case(40, 300, 3, "random", "mixed", 0.5, np.float32, 15)
    assert_same_bits(select(*case), run(case))


LONG = (np.random.default_rng(0).standard_normal((300, 3000)), np.ones(3000), np.arange(3000) % 2, np.full(2, 1500))


def test_report_counts_up() -> None:
    calls: list[tuple[int, int]] = []
    picks = run(LONG, lazy=False, threads=2, report=lambda done, total: calls.append((done, total)))
    assert len(calls) > 1
    assert calls == sorted(calls)
    assert calls[-1] == (3000, 3000)
    assert {total for _, total in calls} == {len(picks.indices)} == {3000}


def test_an_error_in_report_stops_the_loop() -> None:
    def report(_done: int, _total: int) -> None:
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        run(LONG, lazy=False, threads=2, report=report)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"W": [[1.0]]}, TypeError, "W: expected a NumPy array of float32 or float64, got list"),
        ({"W": np.ones((3, 4), int)}, TypeError, "W: expected a NumPy array of float32 or float64, got dtype <i8"),
        ({"W": np.ones(4)}, ValueError, r"W: expected shape \(D, M\) = \(\*, \*\), got \(4,\)"),
        ({"W": np.ones((0, 4))}, ValueError, r"W: expected shape \(D, M\) = \(\*, \*\), got \(0, 4\)"),
        ({"W": np.full((3, 4), np.nan)}, ValueError, "W: expected finite values, got NaN or infinity in column 0"),
        ({"score": np.ones(4, np.float32)}, TypeError, "score: expected a NumPy array of float64, got dtype <f4"),
        ({"score": np.ones(3)}, ValueError, r"score: expected shape \(M,\) = \(4,\), got \(3,\)"),
        ({"score": np.array([0, 0, np.nan, 0])}, ValueError, "score: expected finite values, got nan at index 2"),
        ({"group": np.zeros(4, np.int32)}, TypeError, "group: expected a NumPy array of int64, got dtype <i4"),
        ({"group": np.zeros((4, 1), np.int64)}, ValueError, r"group: expected shape \(M,\) = \(4,\), got \(4, 1\)"),
        ({"group": np.array([0, 1, 0, 0])}, ValueError, "group: expected values from -1 to G - 1 = 0, got 1 at index 1"),
        ({"group": np.array([0, 0, 0, -2])}, ValueError, "group: expected values from -1 .*, got -2 at index 3"),
        ({"quota": np.array([[1]])}, ValueError, r"quota: expected shape \(G,\), got \(1, 1\)"),
        ({"quota": np.array([5])}, ValueError, "quota: expected values from 0 to the group's members = 4, got 5"),
        ({"quota": np.array([-1])}, ValueError, "quota: expected values from 0 .*, got -1 at index 0"),
        ({"given": np.array([1.0])}, TypeError, "given: expected a NumPy array of int64, got dtype <f8"),
        ({"given": np.array([4])}, ValueError, "given: expected distinct columns that have a group, got 4 at index 0"),
        ({"given": np.array([-1])}, ValueError, "given: expected distinct columns that have a group, got -1 at index 0"),
        ({"given": np.array([1, 1])}, ValueError, "given: expected distinct columns that have a group, got 1 at index 1"),
        ({"given": np.array([0, 1, 2])}, ValueError, "given: expected at most as many columns of a group as its quota, got 2"),
        ({"threads": 0}, ValueError, "threads: expected an integer >= 1, got 0"),
        ({"simd": "mmx"}, ValueError, "simd: expected 'auto', 'baseline'.*, got 'mmx'"),
    ],
)
def test_errors_name_the_argument(change: dict[str, object], error: type[Exception], message: str) -> None:
    arguments: dict[str, object] = {
        "W": np.ones((3, 4)), "score": np.ones(4), "group": np.zeros(4, np.int64), "quota": np.array([2])
    }  # fmt: skip
    greedy_select(**arguments)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        greedy_select(**arguments | change)  # type: ignore[arg-type]


@pytest.mark.parametrize("threads", [1, 2])
def test_a_bad_column_deep_in_the_work_is_an_error_on_any_threads(threads: int) -> None:
    W, score, pool, quota = LONG
    W = W.copy()
    W[7, 2001] = np.inf
    with pytest.raises(ValueError, match="W: expected finite values, got NaN or infinity in column 2001"):
        run((W, score, pool, quota), threads=threads)
