"""Runs a plan's tasks, one after the other here, or side by side in processes of one share of the cores each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from nc_fast.compare.initializations import parse
from nc_fast.compare.networks import build
from nc_fast.compare.plan import Plan, Task
from nc_fast.compare.samples import Samples, prepare
from nc_fast.compare.training import Run, train
from nc_fast.data import Dataset, PathLike, load

WARM_UP_SAMPLES = 200
POLL_SECONDS = 0.2

Report = Callable[[int], None]


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Raised in a worker when nobody waits for its run any more."""


def run_plan(plan: Plan, tasks: Iterable[Task], samples: Samples, source: PathLike | None, jobs: int, report: Report) -> Iterator[Run]:
    """Yield the tasks' runs as they finish.

    Parameters
    ----------
    plan, tasks : what to run; the tasks are some of the plan's
    samples : the data, on the plan's device
    source : where worker processes load the same data from, see :func:`nc_fast.data.load`
    jobs : processes; 1 stays in this one, with all of its threads
    report : gets the number of training steps done since its last call

    Notes
    -----
    Before the first run every initialization is tried on a few samples: wrong options show at once, and no run's time holds imports or
    compilation.
    """
    waiting = list(tasks)
    if not waiting:
        return
    warm_up(plan, samples)
    if jobs == 1:
        for task in waiting:
            yield train(task, plan, samples, report)
    else:
        yield from _side_by_side(plan, waiting, source, min(jobs, len(waiting)), report)


def warm_up(plan: Plan, samples: Samples) -> None:
    """Initialize every network once by every initialization, on a few samples of all classes."""
    rows = torch.argsort(torch.argsort(samples.y, stable=True).argsort() % max(1, len(samples.y) // WARM_UP_SAMPLES), stable=True)[
        :WARM_UP_SAMPLES
    ]
    few = Samples(samples.name, samples.X[rows], samples.y[rows], samples.X_test, samples.y_test, samples.n_classes, samples.image_shape)
    for network in plan.networks:
        for initialization in plan.suiting(network):
            model = build(network, few)
            parse(initialization)(model, few, torch.Generator().manual_seed(0))
            loss = nn.functional.cross_entropy(model(few.X), few.y)
            torch.autograd.grad(loss, list(model.parameters()))


def _side_by_side(plan: Plan, tasks: list[Task], source: PathLike | None, jobs: int, report: Report) -> Iterator[Run]:
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    steps, stop = context.Value("q", 0), context.Event()
    threads = max(1, cores() // jobs)
    pool = ProcessPoolExecutor(jobs, context, _start_worker, (_Shared(plan, source, threads, steps, stop),))
    done = 0
    with _terminated_with(pool, stop):
        with _ctrl_c_left_to_this_process():
            pending: set[Future[Run]] = {pool.submit(_work, task) for task in tasks}
        while pending:
            finished, pending = wait(pending, POLL_SECONDS, FIRST_COMPLETED)
            if steps.value > done:
                report(steps.value - done)
                done = steps.value
            for future in finished:
                yield future.result()


@contextmanager
def _ctrl_c_left_to_this_process() -> Iterator[None]:
    """Let processes that start inside the block ignore Ctrl-C, from their first moment."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, found)


@contextmanager
def _terminated_with(pool: ProcessPoolExecutor, stop: Any) -> Iterator[None]:
    try:
        yield
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread inside the block: fastest where the matrices are small."""
    found = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(found)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class _Shared:
    """What a worker is started with: steps done by all workers, and whether to stop, are shared."""

    plan: Plan
    source: PathLike | None
    threads: int
    steps: Any
    stop: Any

    def report(self, steps: int) -> None:
        if self.stop.is_set():
            raise Stopped
        with self.steps.get_lock():
            self.steps.value += steps


_train: Callable[[Task], Run]  # of this worker process


def _start_worker(shared: _Shared) -> None:
    torch.set_num_threads(shared.threads)
    threadpool_limits(shared.threads)
    samples = prepare(load(shared.source), shared.plan.device)
    warm_up(shared.plan, samples)
    global _train
    _train = partial(_stoppable, shared, samples)


def _stoppable(shared: _Shared, samples: Samples, task: Task) -> Run:
    shared.report(0)
    return train(task, shared.plan, samples, shared.report)


def _work(task: Task) -> Run:
    return _train(task)


def load_samples(source: PathLike | None, device: str) -> Samples:
    """Load a data set as tensors."""
    dataset: Dataset = load(source)
    return prepare(dataset, device)
