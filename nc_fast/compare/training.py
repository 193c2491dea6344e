"""One run: initialize, train, evaluate; the clock runs only while it initializes or trains."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from time import perf_counter

import torch
from torch import Tensor, nn

from nc_fast.compare.initializations import parse
from nc_fast.compare.networks import TrainingData, build
from nc_fast.compare.plan import ADAMW, MOMENTUM, Plan, Task

MILESTONES = (100, 300, 600)  # steps after which accuracy is reported, as in the paper
EARLY_EPOCHS = 2  # in which there is an evaluation every so many steps: targets are reached then
EVALUATION_ROWS = 200  # the activations of more do not stay in a core's cache: a CNN's evaluation takes three times as long
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
        Mean loss of the first epoch's batches, each before its step; infinite where one was not finite.
    curve : tuple of Point
    epoch_steps : int
        Steps per epoch.
    validation : float
        Percentage of the validation samples classified correctly after the last epoch; nan without such samples.
    diverged : bool
        Whether a loss was not finite, or the last point's is no better than log(classes), that of guessing. A network of numbers that
        are not finite answers the first class to everything, so its accuracy is that of guessing, too.
    """

    task: Task
    init_seconds: float
    first_epoch_loss: float
    curve: tuple[Point, ...]
    epoch_steps: int
    validation: float
    diverged: bool


def train(task: Task, plan: Plan, data: TrainingData, report: Callable[[int], None]) -> Run:
    """Run a task; ``report`` gets the number of steps done and may raise to end the run."""
    if plan.train_samples is not None:
        data = data.drawn(plan.train_samples, task.seed)
    model = build(task.network, data, task.seed)
    initialize = parse(task.initialization)
    started = perf_counter()
    initialize(model, data, torch.Generator().manual_seed(2 * task.seed), plan.told_lr(task.lr))
    _wait(data.X)
    init_seconds = perf_counter() - started

    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a residual network trains a quarter faster on a CPU
    order = torch.Generator().manual_seed(2 * task.seed + 1)
    epoch_steps = plan.epoch_steps(len(data.X))
    optimizer = optimizer_of(plan.optimizer, model.parameters(), task.lr)
    seconds, losses = 0.0, data.X.new_zeros((), dtype=torch.float64)
    first_epoch_loss = 0.0
    curve = [Point(0, 0.0, accuracy(model, data.X_test, data.y_test), float("nan"))]
    started = perf_counter()
    for step in range(1, plan.epochs * epoch_steps + 1):
        position = (step - 1) % epoch_steps
        if position == 0:
            permutation = torch.randperm(len(data.X), generator=order).to(data.X.device)
        rows = permutation[position * plan.batch : (position + 1) * plan.batch]
        loss = take_step(model, optimizer, data.X[rows], data.y[rows])
        losses += loss
        if step % REPORT_EVERY == 0 or step == plan.epochs * epoch_steps:
            report(step)
        if _evaluated(step, plan, epoch_steps):
            _wait(losses)
            seconds += perf_counter() - started
            curve.append(Point(step, seconds, accuracy(model, data.X_test, data.y_test), float(losses) / (step - curve[-1].step)))
            if step <= epoch_steps:
                first_epoch_loss += float(losses)
            losses.zero_()
            started = perf_counter()
    X, y = data.X_validation, data.y_validation
    return Run(
        task,
        init_seconds,
        first_epoch_loss=first_epoch_loss / epoch_steps if math.isfinite(first_epoch_loss) else math.inf,
        curve=tuple(curve),
        epoch_steps=epoch_steps,
        validation=math.nan if X is None or y is None else accuracy(model, X, y),
        diverged=not (all(math.isfinite(point.loss) for point in curve[1:]) and curve[-1].loss < math.log(data.n_classes)),
    )


def optimizer_of(name: str, parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Return the optimizer of that name, with torch's defaults; of its ways to compute the same steps, the fastest."""
    if name == ADAMW:
        return torch.optim.AdamW(parameters, lr, fused=True)
    return torch.optim.SGD(parameters, lr, momentum=0.9 if name == MOMENTUM else 0.0)


def take_step(model: nn.Module, optimizer: torch.optim.Optimizer, X: Tensor, y: Tensor) -> Tensor:
    """Train on a batch; return its loss before."""
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(X), y)
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return loss.detach()


def accuracy(model: nn.Module, X: Tensor, y: Tensor) -> float:
    """Return the percentage of samples that the network, in evaluation mode, classifies correctly; leave it in training mode."""
    model.eval()
    with torch.no_grad():
        blocks = zip(torch.split(X, EVALUATION_ROWS), torch.split(y, EVALUATION_ROWS), strict=True)
        right = sum(int((model(some).argmax(1) == labels).sum()) for some, labels in blocks)
    model.train()
    return 100 * right / len(y)


def _evaluated(step: int, plan: Plan, epoch_steps: int) -> bool:
    return step % epoch_steps == 0 or step in MILESTONES or (step < EARLY_EPOCHS * epoch_steps and step % plan.eval_every == 0)


def _wait(tensor: Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
