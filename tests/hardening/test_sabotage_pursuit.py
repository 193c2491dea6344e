"""One line of a pursuit made wrong at a time: the comparisons of test_pursuit.py notice, in the reference as on the CPU."""

import importlib.util
import inspect
import sys

import numpy as np
import pytest
from pursuit_cases import Problem, assert_follows_the_rules, centred_targets, random_problem, raw_activations

from nc_fast.backends.cpu import pursue as cpu
from nc_fast.backends.cpu import race
from nc_fast.backends.reference import pursue as reference

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow):RuntimeWarning")


def nearly_parallel() -> Problem:
    """Most of every candidate is one and the same: what is left after a pick has few digits."""
    rng = np.random.default_rng(0)
    common, own = rng.normal(size=(60, 1)), rng.normal(size=(60, 30))
    options = {"bias": np.zeros(30), "activation": "identity", "damping": 1e-9}
    return Problem(np.eye(30), common + 2e-3 * own, own[:, :8] @ rng.normal(size=8), 25, options)


def tied_to_nine_digits() -> Problem:
    """A candidate so little worse than a later one that they count as tied."""
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(40, 6))
    Z[:, 0] = Z[:, 4] + 1e-6 * Z[:, 1]
    options = {"bias": np.zeros(6), "activation": "identity", "damping": 0.0}
    return Problem(np.eye(6), Z, Z[:, 4] + 0.0, 1, options)


def explained_by_one() -> Problem:
    """One candidate explains all that is to be explained by any: what comes after it goes by the lowest index, not by noise."""
    rng = np.random.default_rng(0)
    Q = np.linalg.qr(rng.normal(size=(40, 12)) - rng.normal(size=12))[0]
    Z = Q - Q.mean(axis=0)
    Z = np.linalg.qr(Z)[0]
    options = {"bias": np.zeros(11), "activation": "identity", "damping": 0.0}
    return Problem(np.eye(11), Z[:, :11] @ np.triu(np.ones((11, 11))), Z[:, 11] + Z[:, 0], 6, options)


PROBLEMS = [nearly_parallel(), tied_to_nine_digits(), explained_by_one(), *(random_problem(seed) for seed in range(36))]


def check(module):
    for problem in PROBLEMS:
        T = centred_targets(problem.y)
        found = module.pursue(problem.W, problem.X, T, problem.k, block=1, **problem.options)
        assert_follows_the_rules(found, raw_activations(problem), T, problem.k, problem.options["damping"])


def check_race(module, monkeypatch):
    """Check the CPU's picks in a race of the module's, and that the basis of what is picked is orthonormal to the last digits."""
    races = []

    class Watched(module.Race):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            races.append(self)

    monkeypatch.setattr(cpu, "Race", Watched)
    rng = np.random.default_rng(0)
    X, T = rng.normal(size=(200, 50)), rng.normal(size=(200, 3))
    cpu.pursue(np.eye(50), X, T - T.mean(axis=0), 30, block=4, bias=np.zeros(50), activation="identity", damping=0.0)
    narrow = nearly_parallel()
    cpu.pursue(narrow.W, narrow.X, centred_targets(narrow.y), narrow.k, block=1, **narrow.options)
    for one in races:
        Q = one._Q[: one.picked].astype(np.float64)
        np.testing.assert_allclose(Q @ Q.T, np.eye(len(Q)), rtol=0, atol=1e-13 if one._Q.dtype == np.float64 else 1e-5)
    check(cpu)


def changed(module, right, wrong, monkeypatch):
    """Return the module with a line of its source changed, under its own name while it is imported."""
    source = inspect.getsource(module)
    assert source.count(right) == 1, f"{right!r}: no longer one line of {module.__name__}"
    spec = importlib.util.spec_from_loader(module.__name__, loader=None)
    other = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, module.__name__, other)  # dataclasses look there
    exec(compile(source.replace(right, wrong), module.__file__, "exec"), other.__dict__)
    return other


REFERENCE = {
    "no second orthogonalisation": ("q = q - basis @ (basis.T @ q)", "q = q + 1e-7 * basis.sum(axis=1)"),
    "activations not orthogonalised": ("u -= np.outer(q, q @ u)", "pass"),
    "half of what is spanned is left": ("u -= np.outer(q, q @ u)", "u -= 0.5 * np.outer(q, q @ u)"),
    "damping in absolute units": ("damping * n)", "damping)"),
    "damping squared": ("damping * n)", "damping**2 * n)"),
    "the highest index among ties": ("pick = lowest_tied(gain, eligible)", "pick = len(gain) - 1 - int(np.argmax(gain[::-1]))"),
    "no ties but equal gains": ("pick = lowest_tied(gain, eligible)", "pick = int(np.argmax(gain))"),
    "exhaustion ignored": ("(norm > EXHAUSTED * n)", "(norm > 0)"),
    "exhausted too early": ("(norm > EXHAUSTED * n)", "(norm > 0.01 * n)"),
    "dead candidates compete": ("left & live & (norm", "left & (norm + n"),
    "picked again": ("left[pick] = False", "pass"),
    "gains of squares of sums": ("((T.T @ u) ** 2).sum(axis=0)", "(T.T @ u).sum(axis=0) ** 2"),
    "not centred": ("z -= z.mean(axis=0)", "pass"),
    "divided by another deviation": ("deviation = z.std(axis=0)", "deviation = z.std(axis=0, ddof=1)"),
    "noise is explained": ("gain[gain <= NOTHING_EXPLAINED * total] = 0", "pass"),
    "filled up from the end": ("np.flatnonzero(left)[:filled]", "np.flatnonzero(left)[::-1][:filled]"),
    "the last pick's share": ("((basis.T @ T) ** 2).sum() / total", "((basis[:, -1:].T @ T) ** 2).sum() / total"),
}
RACE = {
    "norm not updated": ("self._norm[rows] -= (a**2).sum(axis=1)", "pass"),
    "correlation not updated": ("self._correlation[rows] -= a @ r", "pass"),
    "correlation updated for one output": ("self._correlation[rows] -= a @ r", "self._correlation[rows, :1] -= a @ r[:, :1]"),
    "no orthogonalisation of what is looked at afresh": ("for _ in range(2 if len(Q) else 0):", "for _ in range(0):"),
    "no second orthogonalisation": ("for _ in range(2 if len(Q) else 0):", "for _ in range(1 if len(Q) else 0):"),
    "no orthogonalisation of a window's picks": ("        for _ in range(2):\n", "        for _ in range(0):\n"),
    "the highest index among ties": ("(gain >= least_tied(best)))[0])", "(gain >= least_tied(best)))[-1])"),
    "no ties but equal gains": ("(gain >= least_tied(best)))[0])", "(gain >= best))[0])"),
    "damping in absolute units": ("self._T, self._damped = columns, T, damping * n", "self._T, self._damped = columns, T, damping"),
    "exhaustion ignored": ("exact.live & (norm > EXHAUSTED * n)", "exact.live & (norm > 0)"),
    "noise is explained": ("gain[gain <= NOTHING_EXPLAINED * self._total] = 0.0", "pass"),
    "one contender is looked at": ("CONTENDERS = (64, 256)", "CONTENDERS = (1, 1)"),
    "rounding is not allowed for": ("FLOAT32_ERROR = 1e-6", "FLOAT32_ERROR = 0.0"),
    "the last pick's share": ("self._residual = max(self._residual - float(share), 0.0)", "self._residual = self._total - float(share)"),
}  # fmt: skip


def test_what_is_right_is_let_pass(monkeypatch):
    check(reference)
    check_race(race, monkeypatch)


@pytest.mark.parametrize("name", REFERENCE)
def test_sabotage_of_the_reference(name, monkeypatch):
    wrong = changed(reference, *REFERENCE[name], monkeypatch)
    with pytest.raises((AssertionError, IndexError, np.linalg.LinAlgError)):
        check(wrong)


@pytest.mark.parametrize("name", RACE)
def test_sabotage_of_the_race(name, monkeypatch):
    wrong = changed(race, *RACE[name], monkeypatch)
    with pytest.raises((AssertionError, IndexError, UnboundLocalError, KeyError)):
        check_race(wrong, monkeypatch)
