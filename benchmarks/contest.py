"""Runs the contenders of a stage under pytest-benchmark, so that ratios come from interleaved rounds of one run.

Every size is gone through in turns; in each turn every contender gets its rounds, so that a machine that slows down slows all
of them. Slow contenders at large sizes run once, in the first turn.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Any

import pytest
from environment import environment
from inputs import DataMissingError
from setups import Contender
from sizes import Size

TURNS = 3
ROUNDS = (3, 50)  # at least, at most
SECONDS_A_TURN = 0.3  # as many rounds as fit


def turns(contenders: dict[str, Contender], sizes: Iterable[Size]) -> pytest.MarkDecorator:
    """Parametrize a benchmark over size, turn and contender, in the order in which they are to run."""
    entries = [
        pytest.param(size, name, id=f"{size.name}-{turn}-{name}")
        for size in sizes
        for turn in range(TURNS)
        for name, contender in contenders.items()
        if turn == 0 or not (contender.slow and size.large)
    ]
    return pytest.mark.parametrize(("size", "name"), entries)


def compete(benchmark: Any, stage: str, contenders: dict[str, Contender], size: Size, name: str) -> None:
    """Check a contender's result, then time its rounds; a slow one at a large size is checked on its only round."""
    contender = contenders[name]
    try:
        task = contender.prepare(size)
    except DataMissingError as missing:
        pytest.skip(str(missing))
    benchmark.group = f"{stage} {size.name}"
    benchmark.name = name
    benchmark.extra_info.update(task.notes, baseline=contender.baseline, environment=environment())
    if contender.slow and size.large:
        benchmark.extra_info.update(task.check(benchmark.pedantic(task.run, rounds=1)))
    else:
        benchmark.extra_info.update(task.check(task.run()))  # this call also compiles and warms up
        start = perf_counter()
        task.run()
        fitting = int(SECONDS_A_TURN / (perf_counter() - start))
        benchmark.pedantic(task.run, rounds=min(max(fitting, ROUNDS[0]), ROUNDS[1]))
