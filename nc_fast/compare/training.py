"""One run: initialize, train with plain SGD, evaluate; the clock runs only while it initializes or trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from nc_fast.compare.initializations import parse
from nc_fast.compare.networks import build
from nc_fast.compare.plan import Plan, Task, steps_per_epoch
from nc_fast.compare.samples import Samples

MILESTONES = (100, 300, 600)  # steps after which accuracy is reported, as in the paper
EVALUATION_ROWS = 10_000
REPORT_EVERY = 25  # steps between reports of progress


@dataclass(frozen=True)
class Point:
    """Where a run is after ``step`` steps.

    Attributes
    ----------
    step : int
    seconds : float
        Training time so far; initialization and evaluations apart.
    accuracy : float
        On the test samples, percent.
    loss : float
        Mean training loss of the batches since the point before; nan at step 0.
    """

    step: int
    seconds: float
    accuracy: float
    loss: float


@dataclass(frozen=True)
class Run:
    """What came out of a task.

    Attributes
    ----------
    task : Task
    init_seconds : float
    first_epoch_loss : float
        Mean loss of the first epoch's batches, each before its step.
    curve : tuple of Point
    epoch_steps : int
        Steps per epoch.
    """

    task: Task
    init_seconds: float
    first_epoch_loss: float
    curve: tuple[Point, ...]
    epoch_steps: int


def train(task: Task, plan: Plan, samples: Samples, report: Callable[[int], None]) -> Run:
    """Run a task; ``report`` gets the number of steps done since the last call and may raise to end the run."""
    model = build(task.network, samples)
    initialize = parse(task.initialization)
    started = perf_counter()
    initialize(model, samples, torch.Generator().manual_seed(2 * task.seed))
    _wait(samples.X)
    init_seconds = perf_counter() - started

    order = torch.Generator().manual_seed(2 * task.seed + 1)
    epoch_steps = steps_per_epoch(plan, len(samples.X))
    parameters = list(model.parameters())
    seconds, since, losses = 0.0, 0, samples.X.new_zeros((), dtype=torch.float64)
    first_epoch_loss = losses.clone()
    curve = [Point(0, 0.0, accuracy(model, samples), float("nan"))]
    started = perf_counter()
    for step in range(1, plan.epochs * epoch_steps + 1):
        position = (step - 1) % epoch_steps
        if position == 0:
            permutation = torch.randperm(len(samples.X), generator=order).to(samples.X.device)
        rows = permutation[position * plan.batch : (position + 1) * plan.batch]
        loss = nn.functional.cross_entropy(model(samples.X[rows]), samples.y[rows])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            losses += loss
            if step <= epoch_steps:
                first_epoch_loss += loss
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=-plan.lr)
        since += 1
        if step % REPORT_EVERY == 0:
            report(REPORT_EVERY)
        if _evaluated(step, plan, epoch_steps):
            _wait(losses)
            seconds += perf_counter() - started
            curve.append(Point(step, seconds, accuracy(model, samples), float(losses) / since))
            losses.zero_()
            since = 0
            started = perf_counter()
    report(plan.epochs * epoch_steps % REPORT_EVERY)
    return Run(task, init_seconds, float(first_epoch_loss) / epoch_steps, tuple(curve), epoch_steps)


def accuracy(model: nn.Module, samples: Samples) -> float:
    """Return the percentage of test samples classified correctly."""
    with torch.no_grad():
        blocks = zip(torch.split(samples.X_test, EVALUATION_ROWS), torch.split(samples.y_test, EVALUATION_ROWS), strict=True)
        right = sum(int((model(X).argmax(1) == y).sum()) for X, y in blocks)
    return 100 * right / len(samples.y_test)


def _evaluated(step: int, plan: Plan, epoch_steps: int) -> bool:
    return step % epoch_steps == 0 or step in MILESTONES or (step < epoch_steps and step % plan.eval_every == 0)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
