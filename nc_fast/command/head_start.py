"""He against a campaign on any data set, in a few hundred steps: the training part of ``nc-fast demo``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import IO

from nc_fast.compare import plots
from nc_fast.compare.initializations import DEFAULT
from nc_fast.compare.plan import Plan, steps_per_epoch
from nc_fast.compare.samples import prepare
from nc_fast.compare.tables import Grid, grids
from nc_fast.compare.training import Run
from nc_fast.compare.workers import one_thread, run_plan
from nc_fast.files.read import Dataset

NETWORK = "mlp3"
STEPS, SEEDS = 280, 3


@dataclass(frozen=True, eq=False)
class HeadStart:
    """Some runs from He and from a campaign, on the same batches."""

    data: str
    plan: Plan
    runs: list[Run]

    def tables(self) -> list[Grid]:
        """Return the figures, and the paired differences."""
        return list(grids(self.runs, self.plan, self.data))[:2]

    def picture(self, file: IO[bytes]) -> None:
        """Write a PNG of the training curves."""
        plots.curves(file, self.runs, self.plan, self.data)


def train(dataset: Dataset, seed: int, announce: Callable[[str], None]) -> HeadStart:
    """Train a network from both, for whole epochs of about STEPS steps together.

    Raises
    ------
    ValueError
        When there are too few samples or classes.
    """
    announce("training")
    samples = prepare(dataset)
    plan = Plan((NETWORK,), DEFAULT, tuple(range(seed, seed + SEEDS)))
    plan = replace(plan, epochs=max(1, round(STEPS / steps_per_epoch(plan, len(samples.X)))))
    tasks = list(plan.tasks())
    total, done = plan.steps(len(samples.X)) * len(tasks), 0

    def report(steps: int) -> None:
        nonlocal done
        done += steps
        announce(f"training: {done} of {total} steps")

    with one_thread():
        return HeadStart(samples.name, plan, list(run_plan(plan, tasks, samples, None, 1, report)))
