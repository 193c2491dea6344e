"""Figures of merit of a run, means over seeds, each initialization's best learning rate, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from nc_fast.compare.initializations import HE
from nc_fast.compare.plan import Plan
from nc_fast.compare.training import MILESTONES, Run

NEVER = math.nan


@dataclass(frozen=True)
class Metric:
    """A figure of merit.

    Attributes
    ----------
    key, title : str
        In files, in tables.
    of : run -> number
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
    of: Callable[[Run], float]
    digits: int
    better: int
    relative: bool = False


def epoch_errors(run: Run) -> list[float]:
    """Return the test error after each epoch, percent."""
    return [100 - point.accuracy for point in run.curve if point.step and point.step % run.epoch_steps == 0]


def epoch_seconds(run: Run) -> float:
    """Return the mean training time of an epoch."""
    last = run.curve[-1]
    return last.seconds * run.epoch_steps / last.step


def accuracy_at(step: int) -> Callable[[Run], float]:
    """Return what gives a run's test accuracy after that many steps, percent."""
    return lambda run: next((point.accuracy for point in run.curve if point.step == step), NEVER)


def accuracy_after(epoch: int) -> Callable[[Run], float]:
    """Return what gives a run's test accuracy after that many epochs, percent."""
    return lambda run: accuracy_at(epoch * run.epoch_steps)(run)


def seconds_to(target: float) -> Metric:
    """Return the time to the first evaluation at or above ``target`` percent, initialization included; nan if there is none."""

    def of(run: Run) -> float:
        return next((run.init_seconds + point.seconds for point in run.curve if point.accuracy >= target), NEVER)

    return Metric(f"seconds_to_{target:g}", f"seconds to {target:g} %", of, 2, -1, relative=True)


UNTRAINED = Metric("untrained", "untrained acc. %", accuracy_at(0), 1, 1)
EARLY = tuple(Metric(f"accuracy_{step}", f"acc. % @{step}", accuracy_at(step), 2, 1) for step in MILESTONES)
EPOCHS = tuple(Metric(f"accuracy_epoch_{epoch}", f"acc. % epoch {epoch}", accuracy_after(epoch), 2, 1) for epoch in (1, 2))
LOSS = Metric("first_epoch_loss", "loss, 1st epoch", lambda run: run.first_epoch_loss, 4, -1, relative=True)
FINAL = Metric("final_accuracy", "final acc. %", lambda run: run.curve[-1].accuracy, 2, 1)
ERROR = Metric("best_error", "best error %", lambda run: min(epoch_errors(run)), 2, -1)
EPOCH = Metric("best_epoch", "at epoch", lambda run: 1 + int(np.argmin(epoch_errors(run))), 1, 0)
VALIDATION = Metric("validation", "validation acc. %", lambda run: run.validation, 2, 1)
DIVERGED = Metric("diverged", "diverged", lambda run: float(run.diverged), 2, -1)
INIT = Metric("init_seconds", "init, s", lambda run: run.init_seconds, 3, -1)
SHARE = Metric("init_epochs", "init, epochs", lambda run: run.init_seconds / epoch_seconds(run), 3, -1)
WALL = Metric("total_seconds", "init + training, s", lambda run: run.init_seconds + run.curve[-1].seconds, 2, -1)


def quality(plan: Plan) -> tuple[Metric, ...]:
    """Return the figures that the plan's tables show, each once: the last epoch's accuracy is the first's where there is one epoch."""
    last = (EPOCHS[:1], (*EPOCHS, ERROR, EPOCH), (*EPOCHS, FINAL, ERROR, EPOCH))[min(plan.epochs, 3) - 1]
    return (UNTRAINED, *EARLY, LOSS, *last, *((VALIDATION,) if len(plan.lr) > 1 else ()))


def targets(plan: Plan) -> tuple[Metric, ...]:
    """Return the times to the plan's targets."""
    return tuple(seconds_to(target) for target in plan.target)


def time(plan: Plan) -> tuple[Metric, ...]:
    """Return the figures of time."""
    return (INIT, SHARE, WALL, *targets(plan))


def metrics(plan: Plan) -> tuple[Metric, ...]:
    """Return all figures, times last."""
    return (UNTRAINED, *EARLY, LOSS, *EPOCHS, FINAL, ERROR, EPOCH, VALIDATION, DIVERGED, *time(plan))


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
    error = float(found.std(ddof=1) / math.sqrt(n)) if n > 1 and np.isfinite(found).all() else NEVER
    return Estimate(float(found.mean()), error, n)


@dataclass(frozen=True)
class Row:
    """What a line of a table is about: an initialization, its learning rate, and that of the He it is compared with."""

    initialization: str
    lr: float
    he_lr: float


def rows(runs: Iterable[Run], plan: Plan, network: str) -> list[Row]:
    """Return every initialization at every rate that was run, beside He at the same rate."""
    found = {(run.task.lr, run.task.initialization) for run in runs if run.task.network == network}
    return [Row(name, lr, lr) for lr in plan.lr for name in plan.initializations if (lr, name) in found]


def best_rows(runs: Iterable[Run], plan: Plan, network: str) -> list[Row]:
    """Return every initialization at its best rate, beside He at its own: that of the highest mean validation accuracy."""
    runs = list(runs)

    def validation(row: Row) -> float:
        return mean_of(VALIDATION, by_seed(runs, network, row.initialization, row.lr)).mean

    rates: dict[str, list[Row]] = {}
    for row in rows(runs, plan, network):
        rates.setdefault(row.initialization, []).append(row)
    best = {name: max(found, key=validation).lr for name, found in rates.items()}
    return [Row(name, best[name], best[HE]) for name in plan.initializations if name in best]


def by_seed(runs: Iterable[Run], network: str, initialization: str, lr: float) -> dict[int, Run]:
    """Return the runs of one network from one initialization at one learning rate, by seed."""
    wanted = network, initialization, lr
    return {run.task.seed: run for run in runs if (run.task.network, run.task.initialization, run.task.lr) == wanted}


def mean_of(metric: Metric, runs: Mapping[int, Run]) -> Estimate:
    """Return a metric's mean over the seeds."""
    return estimate(metric.of(run) for run in runs.values())


def difference(metric: Metric, runs: Mapping[int, Run], he: Mapping[int, Run]) -> Estimate:
    """Return the mean difference to He's run with the same seed; for relative metrics in percent of that run."""
    pairs = [(metric.of(runs[seed]), metric.of(he[seed])) for seed in sorted(runs.keys() & he.keys())]
    return estimate(100 * (a / b - 1) if metric.relative else a - b for a, b in pairs)
