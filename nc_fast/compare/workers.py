"""Runs a plan's tasks, one after the other here, or side by side in processes of one share of the cores each."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import cast

import torch
from threadpoolctl import threadpool_limits
from torch import nn

from nc_fast.compare.initializations import parse
from nc_fast.compare.networks import build
from nc_fast.compare.plan import Plan, Task
from nc_fast.compare.samples import Samples, prepare
from nc_fast.compare.training import Run, train
from nc_fast.files.read import Dataset, PathLike, load

WARM_UP_SAMPLES = 200

Report = Callable[[int], None]


def run_plan(plan: Plan, tasks: Iterable[Task], samples: Samples, source: PathLike | None, jobs: int, report: Report) -> Iterator[Run]:
    """Yield the tasks' runs as they finish.

    Parameters
    ----------
    plan, tasks : what to run; the tasks are some of the plan's
    samples : the data, on the plan's device
    source : where worker processes load the same data from, see :func:`nc_fast.files.read.load`
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
    waiting = iter(tasks)
    with _workers(jobs, plan, source) as busy:

        def occupy(end: Connection) -> None:
            if task := next(waiting, None):
                with _expected_alive():
                    end.send(task)
            else:
                busy.remove(end)

        for end in tuple(busy):
            occupy(end)
        while busy:
            for end in cast("list[Connection]", wait(busy)):
                message = _received(end)
                if isinstance(message, Run):
                    occupy(end)
                    yield message
                else:
                    report(message)


def _received(end: Connection) -> Run | int:
    """Return a run, or a number of steps done; raise what went wrong."""
    with _expected_alive():
        message: Run | int | _Failure = end.recv()
    if isinstance(message, _Failure):
        raise message.error from RuntimeError(message.traceback)
    return message


@contextmanager
def _workers(jobs: int, plan: Plan, source: PathLike | None) -> Iterator[list[Connection]]:
    """Start processes that :func:`_work`, and yield this side of their pipes; they end with the block.

    No pool: Ctrl-C in the midst of its bookkeeping may leave a lock held that its own threads then wait for.
    """
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    started = []
    try:
        with _ctrl_c_left_to_this_process():
            for _ in range(jobs):
                mine, theirs = context.Pipe()
                process = context.Process(target=_work, args=(theirs, plan, source, max(1, cores() // jobs)), daemon=True)
                process.start()
                started.append((process, mine))
                theirs.close()  # so that the worker's end shows
        yield [mine for _, mine in started]
    finally:
        for process, _ in started:
            process.terminate()
        for process, mine in started:
            process.join()
            mine.close()


@contextmanager
def _expected_alive() -> Iterator[None]:
    try:
        yield
    except (EOFError, OSError) as error:
        raise ChildProcessError("a worker process ended before its runs did: it was killed, perhaps for want of memory") from error


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
class _Failure:
    error: Exception
    traceback: str


def _work(end: Connection, plan: Plan, source: PathLike | None, threads: int) -> None:
    """Run the tasks that come through the pipe; send back numbers of steps done and runs, or what went wrong."""
    torch.set_num_threads(threads)
    threadpool_limits(threads)
    try:
        samples = load_samples(source, plan.device)
        warm_up(plan, samples)
        while True:
            end.send(train(end.recv(), plan, samples, end.send))
    except Exception as error:
        with suppress(OSError):  # nobody is there any more
            end.send(_Failure(error, traceback.format_exc()))


def load_samples(source: PathLike | None, device: str) -> Samples:
    """Load a data set as tensors."""
    dataset: Dataset = load(source)
    return prepare(dataset, device)
