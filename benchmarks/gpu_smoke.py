"""Whether the GPU backend computes what it should, in seconds: ``python benchmarks/gpu_smoke.py``.

The first thing to run on a device: it ends with exit status 1 at the first wrong value and says which, so that no time goes into
measuring wrong results. Under TRITON_INTERPRET=1 it runs at a toy size on the CPU.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from gpu_machine import Machine

from nc_fast.backends.gpu.features import measure_features
from nc_fast.backends.gpu.moments import class_moments
from nc_fast.backends.gpu.packing import pack_candidates
from nc_fast.backends.gpu.plan import Plan
from nc_fast.backends.gpu.precision import Arithmetic
from nc_fast.backends.gpu.pursue import pursue
from nc_fast.backends.gpu.runtime import target
from nc_fast.backends.gpu.select import select
from nc_fast.backends.gpu.tiles import choose_tiles
from nc_fast.backends.reference.pursue import pursue as reference_pursue
from nc_fast.backends.reference.select import select as reference_select
from nc_fast.types import ClassMoments

# Of the largest deviation within a class, as tests/backends/test_gpu_device.py allows; float64 has its own.
ERROR = {"auto": 2e-6, "fp16": 5e-3, "tf32": 5e-3, "ieee": 2e-6, "float64": 1e-12}


@dataclass(frozen=True)
class Problem:
    """Samples of ragged classes and a pool, on the device: W (D, M), X (N, D), codes (N,), bias (M,)."""

    W: torch.Tensor
    X: torch.Tensor
    codes: torch.Tensor
    bias: torch.Tensor

    @classmethod
    def draw(cls, machine: Machine, dtype: torch.dtype = torch.float32) -> Problem:
        """Return whole tiles, remainders and a class of one row."""
        counts, D, M = ((700, 1, 300, 256, 5, 1025), 83, 301) if machine.gpu else ((40, 1, 17, 16, 33), 19, 21)
        generator = torch.Generator(machine.device).manual_seed(0)
        normal = {"generator": generator, "device": machine.device, "dtype": dtype}
        codes = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
        codes = codes[torch.randperm(len(codes), generator=torch.Generator().manual_seed(0))].to(machine.device)
        bias = 0.1 * torch.randn(M, generator=generator, device=machine.device, dtype=torch.float64)
        return cls(torch.randn(D, M, **normal) / D**0.5, torch.randn(len(codes), D, **normal), codes, bias)

    def moments(self, precision: str = "auto") -> ClassMoments:
        classes = np.arange(int(self.codes.max()) + 1)
        return class_moments(self.W, self.X, self.codes, classes, bias=self.bias, activation="relu", precision=precision)

    def error(self, found: ClassMoments) -> float:
        """Return the largest error of means and of deviations within a class, in units of the largest such deviation.

        Compared with float64 by torch alone. What is not finite counts as infinite.
        """
        activations = torch.relu(self.X.double() @ self.W.double() + self.bias)
        own = [activations[self.codes == c] for c in range(len(found.classes))]
        mean = torch.stack([z.mean(0) for z in own])
        deviation = torch.stack([z.std(0) if len(z) > 1 else torch.zeros_like(z[0]) for z in own])
        got = (found.m2 / (found.count.to(found.m2) - 1).clamp(min=1)[:, None]).sqrt()
        error = max((found.mean - mean).abs().max().item(), (got - deviation).abs().max().item()) / deviation.max().item()
        finite = torch.isfinite(found.mean).all() and torch.isfinite(got).all()
        return error if finite else float("inf")


class WrongError(Exception):
    """A value is not what it should be."""


def check(right: bool, what: str) -> None:
    if not right:
        raise WrongError(what)


def moments(precision: str) -> Callable[[Machine], str]:
    """Return a check of one precision: near float64, and the same bits twice."""

    def run(machine: Machine) -> str:
        problem = Problem.draw(machine, torch.float64 if precision == "float64" else torch.float32)
        how = "auto" if precision == "float64" else precision
        found, again = problem.moments(how), problem.moments(how)
        error = problem.error(found)
        check(error <= ERROR[precision], f"moments differ from float64's by {error:.3g} of a deviation; {ERROR[precision]:g} is allowed")
        check(torch.equal(found.mean, again.mean) and torch.equal(found.m2, again.m2), "moments have other bits the second time")
        return f"error {error:.2g} of {ERROR[precision]:g}"

    return run


def powers_of_two(machine: Machine) -> str:
    """Scales of features and candidates of all magnitudes are exact powers of two, and so are their inverses."""
    exponents = torch.arange(-120, 121, device=machine.device)
    sizes = torch.ldexp(torch.ones(len(exponents), dtype=torch.float64), exponents.cpu()).to(machine.device)
    generator = torch.Generator(machine.device).manual_seed(0)
    rows = torch.rand(40, len(sizes), generator=generator, device=machine.device, dtype=torch.float64) + 1
    X = (rows * sizes).float()
    features = measure_features(X, machine.device)
    arithmetic = Arithmetic("float16", weights_low=True, samples_low=True)
    plan = Plan(arithmetic, "relu", choose_tiles(target(machine.device), arithmetic, "relu"), len(sizes))
    W = (1 / sizes[:, None] * (rows[:21].T + 1)).float()  # every feature of a candidate as large, so that all of them count
    inverse = pack_candidates(W, torch.zeros(21, dtype=torch.float64, device=machine.device), features, plan).inverse
    for name, found in {"features' scales": features.scale, "their inverses": features.unscale, "candidates' inverses": inverse}.items():
        values = found.cpu().numpy()
        wrong = values[np.frexp(values)[0] != 0.5]
        check(not wrong.size, f"{wrong.size} of {name} are no powers of two, such as {wrong[:3]}")
    check(bool((features.scale * features.unscale == 1).all()), "a feature's scale times its inverse is not 1")
    largest = ((X.double() - features.shift) * features.scale).abs().amax(0)
    check(bool(((largest >= 0.5) & (largest < 1)).all()), "a feature is not scaled to between 1/2 and 1")
    return f"features from 2**{int(exponents[0])} to 2**{int(exponents[-1])}"


def selection(machine: Machine) -> str:
    """Picks by class and from one pool are the reference's."""
    rng = np.random.default_rng(0)
    D, M, quotas = (40, 3000, ((30, 7, 60), (90,))) if machine.gpu else (12, 90, ((5, 3), (20,)))
    W, score = rng.normal(size=(D, M)).astype(np.float32), rng.normal(size=M)
    for quota in quotas:
        group = rng.integers(0, len(quota), M)
        given = (W, score, group, np.array(quota))
        found = select(*(torch.from_numpy(value).to(machine.device) for value in given)).indices.cpu().numpy()
        wrong = np.flatnonzero(found != reference_select(*given).indices)
        check(not wrong.size, f"of picks with quota {quota}, {wrong.size} are not the reference's; the first is pick {wrong[:1]}")
    return f"{sum(map(sum, quotas))} picks"


def pursuit(machine: Machine) -> str:
    """Picks and gains are the reference's."""
    rng = np.random.default_rng(0)
    n, D, M, k = (700, 30, 2000, 40) if machine.gpu else (40, 6, 50, 6)
    W, X = rng.normal(size=(D, M)).astype(np.float32), rng.normal(size=(n, D)).astype(np.float32)
    T, bias = rng.normal(size=(n, 5)), rng.normal(size=M) * 0.3
    T -= T.mean(0)
    how = {"activation": "relu", "damping": 1e-3, "block": 1}
    exact = reference_pursue(W, X, T, k, bias=bias, **how)
    W, X, T, bias = (torch.from_numpy(value).to(machine.device) for value in (W, X, T, bias))
    found = pursue(W, X, T, k, bias=bias, **how)
    wrong = np.flatnonzero(found.indices.cpu().numpy() != exact.indices)
    check(not wrong.size, f"{wrong.size} of {k} pursued picks are not the reference's; the first is pick {wrong[:1]}")
    error = np.abs(found.gains.cpu().numpy() / exact.gains - 1).max()
    check(error <= 1e-8, f"gains of pursued picks differ from the reference's by {error:.3g}, relative")
    return f"{k} picks, gains within {error:.2g}"


CHECKS = {precision: moments(precision) for precision in ERROR} | {
    "powers of two": powers_of_two,
    "selection": selection,
    "pursuit": pursuit,
}


def main() -> int:
    """Run the checks; return 1 at the first wrong value."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    machine = Machine()
    for name, run in CHECKS.items():
        start = time.perf_counter()
        try:
            says = run(machine)
        except WrongError as wrong:
            print(f"WRONG  {name}: {wrong}", flush=True)
            return 1
        print(f"right  {name:14} {time.perf_counter() - start:6.2f} s  {says}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
