"""Runs a plan's tasks: one after the other in this process, or side by side in joblib's worker processes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import torch
from joblib import Parallel, cpu_count, delayed

from nc_fast.compare.initializations import parse
from nc_fast.compare.networks import TrainingData, build, prepare
from nc_fast.compare.plan import Plan, Task
from nc_fast.compare.training import Run, optimizer_of, take_step, train
from nc_fast.files.read import load
from nc_fast.files.untrusted import PathLike
from nc_fast.runtime.progress import Report

WARM_UP_SAMPLES = 200


def run_plan(
    plan: Plan, tasks: Sequence[Task], data: TrainingData, source: PathLike | None, jobs: int | None, report: Report | None = None
) -> Generator[Run, None, None]:
    """Yield the tasks' runs as they finish; close the iterator (contextlib.closing) to end the workers of those that have not.

    Parameters
    ----------
    plan, tasks : what to run; the tasks are some of the plan's
    data : on the plan's device
    source : where worker processes load the same data from, see :func:`nc_fast.files.read.load`
    jobs : processes, None: one per core, on a GPU one; 1 stays in this process, with all of its threads, more share the cores
    report : gets (training steps done, of how many); with workers once a run

    Notes
    -----
    Before the first run every initialization is tried on a few samples: wrong options show at once, and no run's time holds imports or
    compilation.
    """
    if not tasks:
        return
    steps = plan.epochs * plan.epoch_steps(len(data.X))

    def done(runs: int, step: int) -> None:
        if report:
            report(runs * steps + step, len(tasks) * steps)

    warm_up(plan, data)
    jobs = min(jobs or (cpu_count() if plan.device == "cpu" else 1), len(tasks))
    if jobs == 1:
        for number, task in enumerate(tasks):
            yield train(task, plan, data, partial(done, number))
        return
    with _ctrl_c_left_to_this_process():
        side_by_side = Parallel(jobs, return_as="generator_unordered", batch_size=1)
        results = side_by_side(delayed(_run)(task, plan, source, os.getpid()) for task in tasks)
    try:
        with closing(results):
            for number, run in enumerate(results, 1):
                done(number, 0)
                yield run
    except BrokenProcessPool as error:
        raise ChildProcessError("a worker process ended before its runs did: it was killed, perhaps for want of memory") from error


def warm_up(plan: Plan, data: TrainingData) -> None:
    """Initialize every network once by every initialization, on a few samples of all classes, and train it a step."""
    stride = max(1, len(data.y) // WARM_UP_SAMPLES)
    in_class_order = torch.argsort(torch.argsort(data.y, stable=True))
    rows = torch.argsort(in_class_order % stride, stable=True)[:WARM_UP_SAMPLES]
    few = replace(data, X=data.X[rows], y=data.y[rows])
    for network in plan.networks:
        for initialization in plan.suiting(network):
            model = build(network, few)
            try:
                parse(initialization)(model, few, torch.Generator().manual_seed(0), plan.told_lr(plan.lr[0]))
            except RuntimeError as error:  # torch's words about a wrong option
                raise ValueError(f"--init {initialization}: {str(error).splitlines()[0]}") from error
            take_step(model, optimizer_of(plan.optimizer, model.parameters(), plan.lr[0]), few.X, few.y)


def load_data(source: PathLike | None, plan: Plan) -> TrainingData:
    """Load a data set as tensors; with several learning rates, validation samples are held out."""
    data = prepare(load(source), plan.device)
    return data.with_validation() if len(plan.lr) > 1 else data


def _run(task: Task, plan: Plan, source: Path | str | None, main: int) -> Run:
    def end_without_main(_: int) -> None:
        if main not in (os.getppid(), os.getpid()):  # it was killed, and nobody waits for the run
            os._exit(1)

    return train(task, plan, _warmed_up(plan, source), end_without_main)


@cache  # once a worker
def _warmed_up(plan: Plan, source: Path | str | None) -> TrainingData:
    data = load_data(source, plan)
    warm_up(plan, data)
    return data


@contextmanager
def _ctrl_c_left_to_this_process() -> Iterator[None]:
    """Let processes that start inside the block ignore Ctrl-C, from their first moment: they are killed, without a word on stderr."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, found)
