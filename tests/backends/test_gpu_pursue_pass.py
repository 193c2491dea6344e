"""The passes of the GPU backend's pursuit, interpreted: launches, host round trips, bytes, bounds, and lies that must be noticed."""

from collections import Counter

import numpy as np
import pytest
from gpu_cases import torch
from gpu_pursuit_cases import check, count_rounds, few_programs, problem  # noqa: F401 - a fixture
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from nc_fast.backends.gpu import activations, columns, pursue

pytestmark = pytest.mark.usefixtures("few_programs")


class _Kernel:
    """A kernel whose launches are counted, or that leaves some of its arguments as they were."""

    names = ("Z", "Q", "Share", "Picked", "Product", "Norm")

    def __init__(self, kernel, forgets=None):
        self._kernel, self._forgets, self.launches = kernel, forgets, 0

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.launches += 1
            with _disable_current_modes():  # the interpreter's own tensor operations are no launches
                at = self.names.index(self._forgets) if self._forgets else 0
                before = args[at].clone()
                self._kernel[grid](*args, **options)
                if self._forgets:
                    args[at].copy_(before)

        return launch


class _Operations(TorchDispatchMode):
    """Counts torch's operations, views aside."""

    def __init__(self):
        super().__init__()
        self.count = Counter()

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name().removeprefix("aten::")
        masks = [index for index in (args[1] if name == "index.Tensor" else ()) if index is not None and index.dtype == torch.bool]
        if not operation.is_view and name != "scalar_tensor":  # a number on its way into a kernel
            self.count["masked index" if masks else name] += 1
        return operation(*args, **kwargs or {})


def test_a_pick_takes_a_fixed_number_of_launches_and_no_host_round_trip(rng, monkeypatch):
    kernels = {}
    for module, name in ((pursue, "update_gains"), (activations, "activate_rows")):
        kernels[name] = _Kernel(getattr(module, name))
        monkeypatch.setattr(module, name, kernels[name])
    whole, per_round = pursue._Loop.round, []

    def counted(loop, at_most):
        before = [kernel.launches for kernel in kernels.values()]
        with _Operations() as operations:
            whole(loop, at_most)
        assert [kernel.launches - was for kernel, was in zip(kernels.values(), before, strict=True)] == [1, 1]
        per_round.append(operations.count)

    monkeypatch.setattr(pursue._Loop, "round", counted)
    check(*problem(rng, M=100), 5)
    assert len(per_round) == 5  # a round a pick
    waiting = {"_local_scalar_dense", "nonzero", "masked index", "masked_select", "_unique2", "is_nonzero", "item", "equal"}
    for found in per_round:
        assert not waiting & set(found)
        assert found == per_round[1]
    assert sum(per_round[1].values()) == 92  # docs/gpu.md


def test_a_host_round_trip_would_be_counted():
    with _Operations() as operations:
        mask = torch.ones(3, dtype=torch.bool)
        mask[mask].any().item()
    assert operations.count["masked index"] == operations.count["_local_scalar_dense"] == 1


def test_bytes_of_a_pass_on_paper(rng):
    """Every argument of the pass that has a row a candidate, read once, and written once where it changes: 97 % is Z."""
    n, M, C = 10_000, 100_000, 10
    written = 8 * C + 8 + 8 + 1  # products, squared length, gain, fresh
    read = 4 * columns.row_pitch(n) + 8 * C + 8 + 1
    assert columns.row_pitch(n) == n
    assert 4 * n / (read + written) > 0.99
    assert M * (read + written) < 4.03e9


def test_bounds_lie_just_above_the_gains(rng, monkeypatch):
    whole, checked = pursue._Loop.round, []

    def compared(loop, at_most):
        whole(loop, at_most)
        bound, places = loop._gain.clone(), torch.arange(len(loop._gain))
        state = [value.clone() for value in (loop._held.product, loop._held.norm, loop._gain, loop._open, loop._fresh)]
        loop._compute_afresh(places, at_most + 1)
        exact = loop._gain.clone()
        for value, kept in zip((loop._held.product, loop._held.norm, loop._gain, loop._open, loop._fresh), state, strict=True):
            value.copy_(kept)
        live = exact > 1e-6
        assert (bound[live] >= exact[live] * (1 - 1e-12)).all()
        assert (bound[live] <= exact[live] * (1 + 1e-3) + 1e-6).all()
        checked.append(int(live.sum()))

    monkeypatch.setattr(pursue._Loop, "round", compared)
    check(*problem(rng, M=100), 10)
    assert len(checked) == 10
    assert min(checked) > 60


LIES = {
    "lengths are not updated": "Norm",
    "products with the targets are not updated": "Product",
}


@pytest.mark.parametrize("lie", LIES)
def test_a_pass_that_forgets_is_noticed(rng, monkeypatch, lie):
    """By its picks, or because many more gains have to be computed afresh."""
    monkeypatch.setattr(pursue, "SHORTLIST", 2)  # what is computed afresh would hide the lie
    W, X, T, bias = problem(rng, M=100, D=5, C=1)
    T += np.maximum(X[:, :1], 0) * 3
    T -= T.mean(axis=0)
    rounds = count_rounds(monkeypatch)

    def confirmed():
        rounds.clear()
        check(W, X, T, bias, 8, damping=0.0)
        assert len(rounds) <= 9

    confirmed()
    monkeypatch.setattr(pursue, "update_gains", _Kernel(pursue.update_gains, LIES[lie]))
    with pytest.raises(AssertionError):
        confirmed()
