"""The cost model of a campaign on P ranks: bytes each rank receives, exactly; seconds, to first order. docs/scale.md uses it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from nc_fast.distributed.greedy import LEAST_SHORTLIST, SHORTLIST_FACTOR
from nc_fast.distributed.merge import DTYPE_BYTES
from nc_fast.distributed.ranks import STATUS_BYTES

FLOAT, INTEGER = 8, 8
RECORD_NUMBERS = 4  # of a candidate sent: index, score, bias, group
NORMS = 4  # of spread, between, within, and of the difference of the last two


@dataclass(frozen=True)
class Problem:
    """The size of a campaign.

    Attributes
    ----------
    N, D, M, C, k : samples, features, candidates, classes, picks.
    weight_bytes : of one weight, as it is sent: 4, or 8 for float64 (16-bit floats are sent as float32).
    label_bytes : of one label.
    """

    N: int
    D: int
    M: int
    C: int
    k: int
    weight_bytes: int = 4
    label_bytes: int = 8


@dataclass(frozen=True)
class Machine:
    """What the time of a campaign depends on.

    Attributes
    ----------
    flops : of one rank on the product X @ W, a second, as the moments stage reaches it.
    read_seconds : that one rank takes to check and gather all samples, whatever the pool.
    select_seconds : of the whole selection on one rank.
    bytes_per_second : that a rank receives in an exchange.
    latency : seconds a collective call takes whatever its size.
    slots : ranks that can compute at the same time; more share them.
    """

    flops: float
    read_seconds: float
    select_seconds: float
    bytes_per_second: float
    latency: float
    slots: int


def expected_bytes(problem: Problem, ranks: int, shard: str, *, headers: int | None = None, records: int | None = None) -> dict[str, int]:
    """Return the payload bytes each rank receives, by what they are for, when alpha is below 1 and no candidate is dead.

    Parameters
    ----------
    problem : Problem
    ranks : P
    shard : "samples" or "candidates"
    headers, records : with "candidates", what :class:`Traffic` counted; by default that of a selection which the first
        shortlists decide.

    Returns
    -------
    dict
        As ``Traffic.received``.

    Examples
    --------
    >>> mnist = Problem(N=60_000, D=784, M=5000, C=10, k=500)
    >>> {shard: sum(expected_bytes(mnist, 4, shard).values()) for shard in ("samples", "candidates")}
    {'samples': 1273800, 'candidates': 2413800}
    """
    others = ranks - 1
    if shard == "samples":
        slice_ = 2 * FLOAT * problem.C * ceil(problem.M / ranks)
        received = {
            "agreement": 4 * STATUS_BYTES,
            "labels": INTEGER + 2 * DTYPE_BYTES + problem.C * problem.label_bytes,
            "moments": INTEGER * problem.C + 2 * slice_,
            "selection": (INTEGER + FLOAT) * (problem.k + 1),
        }
    else:
        first = max(LEAST_SHORTLIST, ceil(SHORTLIST_FACTOR * problem.k / problem.C / ranks))
        headers = problem.C if headers is None else headers
        records = problem.C * first if records is None else records
        record = RECORD_NUMBERS * 8 + problem.D * problem.weight_bytes
        received = {
            "agreement": 3 * STATUS_BYTES + INTEGER,
            "scores": NORMS * 2 * FLOAT,
            "selection": INTEGER * problem.C + 2 * 8 * headers + record * records,
        }
    return {what: others * n_bytes for what, n_bytes in received.items()}


def expected_seconds(problem: Problem, machine: Machine, ranks: int, shard: str) -> float:
    """Return the time of a campaign: the product in equal parts, the samples' reading, the exchanges, the selection.

    With "samples" the reading is shared and so is the selection, pool by pool; with "candidates" every rank reads all
    samples and makes all picks.

    Examples
    --------
    >>> mnist = Problem(N=60_000, D=784, M=5000, C=10, k=500)
    >>> machine = Machine(flops=1e11, read_seconds=0, select_seconds=0.05, bytes_per_second=1e9, latency=1e-4, slots=8)
    >>> [round(expected_seconds(mnist, machine, ranks, "samples"), 2) for ranks in (1, 2, 8)]
    [4.75, 2.38, 0.6]
    """
    flops = 2 * problem.N * problem.D * problem.M
    reading = machine.read_seconds / (ranks if shard == "samples" else 1)
    moments = (flops / ranks / machine.flops + reading) * max(1, ranks / machine.slots)
    calls = 10 if shard == "samples" else 11
    exchange = sum(expected_bytes(problem, ranks, shard).values()) / machine.bytes_per_second + calls * machine.latency
    selecting = machine.select_seconds
    if shard == "samples":
        selecting *= ceil(problem.C / ranks) / problem.C
    return moments + (exchange if ranks > 1 else 0.0) + selecting
