"""What the GPU backend is to reach on an H100 or H200, and whether the rows of a report say that it does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpu_results import Row

LARGE, SMALL, HUGE = "N=60000 D=784 M=100000 C=10", "N=60000 D=784 M=1000 C=10", "N=60000 D=784 M=1000000 C=10 k=1000"
CAMPAIGN, PURSUIT = LARGE + " k=1000", "N=10000 D=784 M=100000 C=10 k=1000"
Rows = Callable[..., list[Row]]  # (stage, start of the name, start of the shape) -> the rows


@dataclass(frozen=True)
class Target:
    """A number that is to be at least, or at most, a bound; ``measured`` raises LookupError or ValueError where rows are missing."""

    what: str
    bound: float
    measured: Callable[[Rows], float]
    at_least: bool = False

    def verdict(self, rows: list[Row]) -> str:
        """Return one line: what is asked, what was measured, met or missed."""

        def find(stage: str, name: str = "", shape: str = "") -> list[Row]:
            return [row for row in rows if row.stage == stage and row.name.startswith(name) and row.shape.startswith(shape)]

        asked = f"target: {self.what} {'>=' if self.at_least else '<='} {self.bound:g}"
        try:
            value = self.measured(find)
        except (LookupError, ValueError):
            return f"{asked}: not measured"
        met = value >= self.bound if self.at_least else value <= self.bound
        return f"{asked}: {value:.4g}, {'met' if met else 'MISSED'}"


def rate_of_cublas(precision: str) -> Callable[[Rows], float]:
    return lambda find: find("kernels", precision, LARGE)[0].notes["of cuBLAS's rate"]


def times_as_fast(other: str) -> Callable[[Rows], float]:
    """Return the seconds a candidate of the fastest other contender over those of the campaign."""

    def measured(find: Rows) -> float:
        cost = "us a candidate"
        return min(row.notes[cost] for row in find("campaign", other)) / find("campaign", "nc_fast", CAMPAIGN)[0].notes[cost]

    return measured


def wrong_picks(find: Rows) -> float:
    rows = find("agree", "auto", "mnist")
    return max(row.notes["of"] - row.notes["same position"] for row in rows)


def over_kernels(find: Rows) -> float:
    return max(row.notes["over its kernels"] for row in find("moments", "", LARGE))


def other_bits(find: Rows) -> float:
    return max(not row.notes["same bits"] for row in find("moments"))


TARGETS = [
    Target("fp16 kernels at M = 1e5, of cuBLAS's rate", 0.80, rate_of_cublas("fp16"), at_least=True),
    Target("auto kernels at M = 1e5, of cuBLAS's rate", 0.85, rate_of_cublas("auto"), at_least=True),
    Target("tf32 kernels at M = 1e5, of cuBLAS's rate", 0.85, rate_of_cublas("tf32"), at_least=True),
    Target("class_moments over its kernels at M = 1e5", 1.15, over_kernels),
    Target("class_moments at M = 1000, seconds", 1.5e-3, lambda find: find("moments", "auto", SMALL)[0].seconds),
    Target("campaign at M = 1e5, times the original's speed", 20, times_as_fast("original"), at_least=True),
    Target("campaign at M = 1e5, times the CPU backend's speed", 100, times_as_fast("CPU backend"), at_least=True),
    Target("campaign at M = 1e6, seconds", 0.7, lambda find: find("campaign", "nc_fast", HUGE)[0].seconds),
    Target("campaign at M = 1e6, GiB beyond inputs", 2, lambda find: find("campaign", "nc_fast", HUGE)[0].notes["GiB beyond inputs"]),
    Target("campaign at M = 1e6, selection's share", 0.10, lambda find: find("campaign", "nc_fast", HUGE)[0].notes["selection's share"]),
    Target("pursuit, seconds", 3, lambda find: find("pursue", "", PURSUIT)[0].seconds),
    Target("picks of auto on MNIST other than float64's", 0, wrong_picks),
    Target("whether any call gave other bits the second time", 0, other_bits),
]


def verdicts(rows: list[Row]) -> list[str]:
    """Return a line for every target."""
    return [target.verdict(rows) for target in TARGETS]
