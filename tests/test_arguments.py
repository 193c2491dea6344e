"""Every argument of every public function, with values of the wrong kind and wrong values: refused, naming it, before any work.

``WRONG`` is held against the signatures, so that a new argument cannot escape; tests/init/test_init_arguments.py does the
same for ``nc_fast.init``.
"""

import inspect

import numpy as np
import pytest

import nc_fast
import nc_fast.candidates
import nc_fast.criteria
from nc_fast.backends.registry import BACKENDS

RNG = np.random.default_rng(0)
W, X, Y = RNG.normal(size=(4, 9)), RNG.normal(size=(12, 4)), np.arange(12) % 3
NAN, MASKED = X.copy(), np.ma.masked_array(X, X > 1)
NAN[5, 2] = np.nan
MOMENTS = nc_fast.class_moments(W, X, Y)
PROJECTOR = nc_fast.NullSpaceProjector(4)
PURSUIT = nc_fast.pursuit(W, X, Y, 2)

MATRIX = [None, "x", 3, [[1.0, 2.0], [3.0]], np.zeros((4, 7), complex), np.zeros((4, 7), object), np.zeros(4), np.zeros((4, 0)), MASKED]
WEIGHTS = [*MATRIX, np.zeros((4, 9), int), np.full((4, 9), np.inf)]
TARGETS = ["abc", Y[:3], np.eye(3, dtype=int)[Y], [None] * 12, np.ma.masked_array(Y, Y > 1), X[:3], X[:, :0], NAN, X + 0j, X * 1e31]
MIXED = [*[1, "1"] * 6], np.array([1, "1"] * 6, object), [*[True, 2] * 6]
LABELS = ["abc", Y / 2, Y * 1.0, Y[:3], np.eye(3)[Y], NAN[:, 2], *MIXED, [None] * 12, np.ma.masked_array(Y, Y > 1)]
BACKEND, PRECISION = ["gpus", 3, None], ["fp8", 16, None, "fp16"]
BIAS = ["centre", None, np.zeros(3), np.nan, 1j, [1, [2]]]
ACTIVATION = ["rellu", None, 3]
PROGRESS = ["yes", 1, None]
CHECKPOINT = [3, b"m.npz", "m.pkl", "no/such/folder/m.npz", True]
PROCESS_GROUP = ["gloo", 3]
ALPHA = [-0.1, 1.1, np.nan, "0.5", None, True]
COUNT = [0, -1, 10, 2.0, "2", None, True]
NOT_NEGATIVE = [-1e-9, np.nan, np.inf, "0.5", None, True, 1j, [0.5]]
AT_LEAST_ONE = [0, -1, 2.0, "2", None, True]
IGNORE = [2.5, True, np.nan, 1j, [1, None], [[1]]]
SEED = ["x", None, -1, 2.5, True, [1]]
MOMENTS_KIND = [None, 3, "x", (MOMENTS.mean, MOMENTS.m2)]

# function -> (arguments that are right, argument -> values that are wrong)
WRONG = {
    nc_fast.campaign: (
        {"W_candidates": W, "X": X, "y": Y, "k": 2},
        {
            "W_candidates": WEIGHTS,
            "X": [*MATRIX, X[:, :2], NAN],
            "y": [None, *LABELS],
            "k": COUNT,
            "bias": BIAS,
            "activation": ACTIVATION,
            "alpha": ALPHA,
            "by_class": ["no", 1, None],
            "criterion": ["fisher", 3],
            "method": ["exactly", None, 3],
            "backend": BACKEND,
            "precision": PRECISION,
            "progress": PROGRESS,
            "checkpoint": CHECKPOINT,
            "process_group": PROCESS_GROUP,
            "shard": ["smaples", None, 3],
            "ignore_index": IGNORE,
        },
    ),
    nc_fast.class_moments: (
        {"W": W, "X": X, "y": Y},
        {
            "W": WEIGHTS,
            "X": [*MATRIX, X[:, :2], NAN],
            "y": [None, *LABELS],
            "bias": BIAS,
            "activation": ACTIVATION,
            "backend": BACKEND,
            "precision": PRECISION,
            "progress": PROGRESS,
            "checkpoint": CHECKPOINT,
            "process_group": PROCESS_GROUP,
            "ignore_index": IGNORE,
        },
    ),
    nc_fast.select: (
        {"W": W, "scores": np.ones(9), "k": 2, "groups": np.arange(9) % 2},
        {
            "W": WEIGHTS,
            "scores": [None, "x", np.ones(3), np.full(9, np.nan), np.zeros(9, complex), np.ones((9, 1))],
            "k": COUNT,
            "groups": [None, np.ones(9), np.zeros(3, int), "abc"],
            "by_class": ["no", 1, None],
            "given": ["abc", 3, [1.0], [True], [[0]], [0, 0], [9], [-1], np.arange(8), np.ma.masked_array([0, 1], [0, 1]), {1}],
            "backend": BACKEND,
            "progress": PROGRESS,
        },
    ),
    nc_fast.ib_scores: ({"moments": MOMENTS}, {"moments": MOMENTS_KIND, "alpha": ALPHA}),
    nc_fast.share_quota: (
        {"sizes": [3, 4], "k": 2},
        {"sizes": [None, "x", [1.5, 2.0], [[3, 4]], [3, -1], [1, [2]]], "k": [-1, 8, 2.0, "2", None, True]},
    ),
    nc_fast.criteria.apply_criterion: (
        {"criterion": lambda moments: (moments.spread(), moments.mean.argmax(0)), "moments": MOMENTS},
        {"criterion": ["ib", 3], "moments": MOMENTS_KIND},
    ),
    nc_fast.candidates.gaussian: (
        {"D": 4, "M": 3},
        {
            "D": AT_LEAST_ONE,
            "M": AT_LEAST_ONE,
            "rng": SEED,
            "dtype": ["int32", "x", None, np.float16, int, ">f8"],
            "antithetic": ["yes", 1, None],
        },
    ),
    nc_fast.candidates.data_pairs: (
        {"X": X, "y": Y, "M": 3},
        {
            "X": [*MATRIX, NAN, X + 0j, X.astype(np.float16), np.zeros((12, 4)), 1e-160 * X, 1e160 * X],
            "y": [
                None,
                "abc",
                Y[:3],
                np.eye(3, dtype=int)[Y],
                [None] * 12,
                LABELS[-1],
                np.zeros(12, int),
                np.zeros(12),
                X[:3],
                X[:, :0],
                NAN,
                X + 0j,
            ],
            "M": AT_LEAST_ONE,
            "rng": SEED,
            "where": ["middle", "centre", None, 3],
            "ignore_index": IGNORE,
        },
    ),
    nc_fast.pursuit: (
        {"W_candidates": W, "X": X, "y": Y, "k": 2},
        {
            "W_candidates": WEIGHTS,
            "X": [*MATRIX, X[:, :2], NAN],
            "y": [None, np.zeros(12, int), np.full(12, 0.1), *TARGETS],
            "k": COUNT,
            "bias": [None, "centre", np.zeros(3), np.nan, 1j, [1, [2]]],
            "activation": ACTIVATION,
            "max_samples": [*AT_LEAST_ONE, 1],
            "damping": NOT_NEGATIVE,
            "block": [0, -1, 2.0, "1", "all", None, True],
            "rng": SEED,
            "backend": BACKEND,
            "precision": PRECISION,
            "progress": PROGRESS,
            "process_group": PROCESS_GROUP,
            "ignore_index": IGNORE,
        },
    ),
    nc_fast.Pursuit.take: ({"self": PURSUIT, "j": 1}, {"j": [0, -1, 3, 2.0, "2", None, True]}),
    nc_fast.ridge_head: (
        {"Z": X, "T": Y},
        {
            "Z": [*MATRIX, NAN, X > 0, np.ones((12, 4), int)],
            "T": [None, *TARGETS],
            "ridge": [*NOT_NEGATIVE, "los", np.ones(2)],
            "standardize": ["no", 1, None],
            "sample_weight": ["x", 3, np.ones(3), np.ones((12, 1)), np.zeros(12), -np.ones(12), NAN[:, 2], 1j * np.ones(12), Y > 0],
            "ignore_index": IGNORE,
        },
    ),
    nc_fast.Gram.take: ({"self": PURSUIT.gram, "j": 1}, {"j": [0, -1, 3, 2.0, "2", None, True]}),
    nc_fast.ClassMoments.save: ({"self": MOMENTS, "path": "m.npz"}, {"path": [None, 3, b"m.npz", "m.pkl"]}),
    nc_fast.ClassMoments.load: ({"path": "m.npz"}, {"path": [None, 3, b"m.npz", "m.pkl"]}),
    nc_fast.ClassMoments.over: ({"self": MOMENTS, "classes": np.arange(4)}, {"classes": [np.arange(2), None, "x", 3]}),
    nc_fast.NullSpaceProjector: ({"dim": 3}, {"dim": [0, -1, 10**30, 2.5, "3", None, True]}),
    PROJECTOR.add: (
        {"vector": np.ones(4)},
        {"vector": [None, 3, [1.0] * 4, np.ones(3), np.ones((2, 2)), np.ones(4, int), np.full(4, np.nan)]},
    ),
    PROJECTOR.residual_norms: ({"W": W}, {"W": [None, 3, W.tolist(), W[:3], W[0], W.astype(int), np.full((4, 2), np.inf)]}),
    PROJECTOR.ratios: ({"W": W}, {"W": [None, 3, W.tolist(), W[:3], W[0], W.astype(int), np.full((4, 2), np.inf)]}),
}
CASES = [
    pytest.param(function, {**right, name: value}, name, id=f"{function.__name__}-{name}-{number}")
    for function, (right, wrong) in WRONG.items()
    for name, values in wrong.items()
    for number, value in enumerate(values)
]


@pytest.mark.parametrize(("function", "arguments", "name"), CASES)
def test_wrong_values_are_refused_before_any_work(function, arguments, name, monkeypatch, tmp_path):
    if name == "process_group":
        pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    before = {key: value.copy() for key, value in arguments.items() if isinstance(value, np.ndarray)}

    def work(*_, **__):
        raise AssertionError("work began")

    for step in ("heads.stream_gram", "heads.solve", "stages.pursuit.solve"):
        monkeypatch.setattr(f"nc_fast.{step}", work)
    for stage in ("moments.class_moments", "select.select", "activations.activations", "pursue.pursue"):
        for backend in ("cpu", "reference"):
            monkeypatch.setattr(f"nc_fast.backends.{backend}.{stage}", work)
    self = [arguments.pop("self")] if "self" in arguments else []
    with pytest.raises((TypeError, ValueError), match=rf"^{name}: expected .+, got .+"):
        function(*self, **arguments)
    assert list(tmp_path.iterdir()) == []
    for key, value in before.items():
        np.testing.assert_array_equal(arguments[key], value)


@pytest.mark.parametrize("function", WRONG, ids=lambda function: function.__name__)
def test_right_values_are_taken(function, monkeypatch, tmp_path):
    """The test above can fail: its arguments are fine but for the one that is wrong."""
    monkeypatch.chdir(tmp_path)
    MOMENTS.save("m.npz")
    arguments = dict(WRONG[function][0])
    self = [arguments.pop("self")] if "self" in arguments else []
    function(*self, **arguments)


def public_functions():
    """Every public function and method that takes an argument, and its arguments' names."""
    for name in nc_fast.__all__:
        item = getattr(nc_fast, name)
        if inspect.isfunction(item):
            yield item, set(inspect.signature(item).parameters)
    for module in (nc_fast.candidates, nc_fast.criteria):
        for name in module.__all__:
            item = getattr(module, name)
            if inspect.isfunction(item):
                yield item, set(inspect.signature(item).parameters)
    for owner in (nc_fast.ClassMoments, nc_fast.Pursuit, nc_fast.Gram, nc_fast.RidgeHead):
        for name, item in inspect.getmembers(owner, callable):
            parameters = set(inspect.signature(item).parameters) - {"self"} if not name.startswith("_") else set()
            if parameters:
                yield item, parameters
    yield nc_fast.NullSpaceProjector, {"dim"}
    for name, item in inspect.getmembers(PROJECTOR, callable):
        takes = "(" in (item.__doc__ or "") and item.__doc__.split("\n")[0].partition("(")[2].partition(")")[0].split(", ")[1:]
        if not name.startswith("_") and takes:
            yield item, {argument.partition(":")[0] for argument in takes}


def test_no_argument_escapes():
    found = dict(public_functions())
    assert {function.__qualname__ for function in found} == {function.__qualname__ for function in WRONG}
    for function, parameters in found.items():
        assert set(WRONG[function][1]) == parameters, function.__qualname__


def test_backends_named_here_are_all_that_compute_on_numpy():
    assert {name for name, backend in BACKENDS.items() if not backend.on_gpu} == {"cpu", "reference"}
