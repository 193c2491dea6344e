"""One run: initialize, train with plain SGD, evaluate; the clock runs only while it initializes or trains."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from nc_fast.compare.initializations import parse
from nc_fast.compare.networks import TrainingData, build
from nc_fast.compare.plan import Plan, Task

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


def train(task: Task, plan: Plan, data: TrainingData, report: Callable[[int], None]) -> Run:
    """Run a task; ``report`` gets the number of steps done and may raise to end the run."""
    model = build(task.network, data)
    initialize = parse(task.initialization)
    started = perf_counter()
    initialize(model, data, torch.Generator().manual_seed(2 * task.seed))
    _wait(data.X)
    init_seconds = perf_counter() - started

    order = torch.Generator().manual_seed(2 * task.seed + 1)
    epoch_steps = plan.epoch_steps(len(data.X))
    parameters = list(model.parameters())
    seconds, losses = 0.0, data.X.new_zeros((), dtype=torch.float64)
    first_epoch_loss = losses.clone()
    curve = [Point(0, 0.0, accuracy(model, data), float("nan"))]
    started = perf_counter()
    for step in range(1, plan.epochs * epoch_steps + 1):
        position = (step - 1) % epoch_steps
        if position == 0:
            permutation = torch.randperm(len(data.X), generator=order).to(data.X.device)
        rows = permutation[position * plan.batch : (position + 1) * plan.batch]
        loss = nn.functional.cross_entropy(model(data.X[rows]), data.y[rows])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            losses += loss
            if step <= epoch_steps:
                first_epoch_loss += loss
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=-plan.lr)
        if step % REPORT_EVERY == 0 or step == plan.epochs * epoch_steps:
            report(step)
        if _evaluated(step, plan, epoch_steps):
            _wait(losses)
            seconds += perf_counter() - started
            curve.append(Point(step, seconds, accuracy(model, data), float(losses) / (step - curve[-1].step)))
            losses.zero_()
            started = perf_counter()
    return Run(task, init_seconds, float(first_epoch_loss) / epoch_steps, tuple(curve), epoch_steps)


def accuracy(model: nn.Module, data: TrainingData) -> float:
    """Return the percentage of test samples classified correctly."""
    with torch.no_grad():
        blocks = zip(torch.split(data.X_test, EVALUATION_ROWS), torch.split(data.y_test, EVALUATION_ROWS), strict=True)
        right = sum(int((model(X).argmax(1) == y).sum()) for X, y in blocks)
    return 100 * right / len(data.y_test)


def _evaluated(step: int, plan: Plan, epoch_steps: int) -> bool:
    return step % epoch_steps == 0 or step in MILESTONES or (step < epoch_steps and step % plan.eval_every == 0)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
