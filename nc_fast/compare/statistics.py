"""Figures of merit of a run, means over seeds, and paired differences against He."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from nc_fast.compare.initializations import HE
from nc_fast.compare.training import MILESTONES, Run

NEVER = math.nan


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    Attributes
    ----------
    key, title : str
        In files, in tables.
    of : run, target -> number
        nan where the run has none.
    digits : int
        After the decimal point.
    better : int
        1 when more is better, -1 when less is, 0 when neither.
    relative : bool
        Whether differences are shown in percent of He's.
    """

    key: str
    title: str
    of: Callable[[Run, float], float]
    digits: int
    better: int
    relative: bool = False


def epoch_errors(run: Run) -> list[float]:
    """Return the test error after each epoch, percent."""
    return [100 - point.accuracy for point in run.curve if point.step and point.step % run.epoch_steps == 0]


def seconds_to(run: Run, target: float) -> float:
    """Return the time to the first evaluation at or above ``target`` percent, initialization included; nan if there is none."""
    return next((run.init_seconds + point.seconds for point in run.curve if point.accuracy >= target), NEVER)


def epoch_seconds(run: Run) -> float:
    """Return the mean training time of an epoch."""
    last = run.curve[-1]
    return last.seconds * run.epoch_steps / last.step


def accuracy_at(step: int) -> Callable[[Run, float], float]:
    """Return what gives a run's test accuracy after that many steps, percent."""
    return lambda run, _: next((point.accuracy for point in run.curve if point.step == step), NEVER)


UNTRAINED = Metric("untrained", "untrained acc. %", accuracy_at(0), 1, 1)
EARLY = tuple(Metric(f"accuracy_{step}", f"acc. % @{step}", accuracy_at(step), 2, 1) for step in MILESTONES)
LOSS = Metric("first_epoch_loss", "loss, 1st epoch", lambda run, _: run.first_epoch_loss, 4, -1, relative=True)
ERROR = Metric("best_error", "best error %", lambda run, _: min(epoch_errors(run)), 2, -1)
EPOCH = Metric("best_epoch", "at epoch", lambda run, _: 1 + int(np.argmin(epoch_errors(run))), 1, 0)
INIT = Metric("init_seconds", "init, s", lambda run, _: run.init_seconds, 3, -1)
SHARE = Metric("init_epochs", "init, epochs", lambda run, _: run.init_seconds / epoch_seconds(run), 3, -1)
WALL = Metric("total_seconds", "init + training, s", lambda run, _: run.init_seconds + run.curve[-1].seconds, 2, -1)
TARGET = Metric("target_seconds", "to target, s", seconds_to, 2, -1)
QUALITY = (UNTRAINED, *EARLY, LOSS, ERROR, EPOCH)
TIME = (INIT, SHARE, WALL, TARGET)
METRICS = (*QUALITY, *TIME)


@dataclass(frozen=True)
class Estimate:
    """A mean over n runs and its standard error, nan with fewer than two."""

    mean: float
    error: float
    n: int

    @property
    def certain_sign(self) -> bool:
        """Whether the mean is more than two standard errors from 0."""
        return self.n > 1 and abs(self.mean) > 2 * self.error


def estimate(values: Iterable[float]) -> Estimate:
    """Return the mean and standard error of the values that are numbers.

    Examples
    --------
    >>> estimate([1.0, 3.0, float("nan")])
    Estimate(mean=2.0, error=1.0, n=2)
    """
    found = np.array([value for value in values if not math.isnan(value)])
    n = len(found)
    if n == 0:
        return Estimate(NEVER, NEVER, 0)
    return Estimate(float(found.mean()), float(found.std(ddof=1) / math.sqrt(n)) if n > 1 else NEVER, n)


def by_seed(runs: Iterable[Run], network: str, initialization: str) -> dict[int, Run]:
    """Return the runs of one network from one initialization, by seed."""
    return {run.task.seed: run for run in runs if (run.task.network, run.task.initialization) == (network, initialization)}


def mean_of(metric: Metric, runs: Sequence[Run], network: str, initialization: str, target: float) -> Estimate:
    """Return a metric's mean over the seeds."""
    return estimate(metric.of(run, target) for run in by_seed(runs, network, initialization).values())


def against_he(metric: Metric, runs: Sequence[Run], network: str, initialization: str, target: float) -> Estimate:
    """Return the mean difference to He's run with the same seed; for relative metrics in percent of that run."""
    mine, he = by_seed(runs, network, initialization), by_seed(runs, network, HE)
    pairs = [(metric.of(mine[seed], target), metric.of(he[seed], target)) for seed in sorted(mine.keys() & he.keys())]
    return estimate(100 * (a / b - 1) if metric.relative else a - b for a, b in pairs)
