"""How many threads a call uses, and running ordered work on them.

The count is the one the process's BLAS is set to, so that OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and
``threadpoolctl.threadpool_limits`` govern nc_fast as they govern ``X @ W``.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from threading import Event, Lock
from typing import Any, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")


@cache
def _blas() -> Any:
    import numpy  # noqa: F401  (its BLAS must be loaded to be found)

    return ThreadpoolController().select(user_api="blas")


class _SingleThreadedBlas:
    """Holds the process's BLAS at one thread while any caller is inside; the last one out restores what the first one found."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._callers = 0
        self._limiter: Any = None
        self._found = 1

    def threads(self) -> int:
        with self._lock:
            return self._found if self._callers else _threads_set()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if self._callers == 0:
                self._found = _threads_set()
                self._limiter = _blas().limit(limits=1)
            self._callers += 1
        try:
            yield
        finally:
            with self._lock:
                self._callers -= 1
                if self._callers == 0:
                    self._limiter.restore_original_limits()


def _threads_set() -> int:
    libraries = _blas().lib_controllers
    if not libraries:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(int(library.num_threads) for library in libraries)


single_threaded_blas = _SingleThreadedBlas()
thread_count = single_threaded_blas.threads


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Raised inside a worker whose result nobody waits for any more."""


def ordered_map(function: Callable[[Item, Event], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``function(item, stop)`` for every item, in order, computed by ``threads`` threads.

    At most ``threads + 1`` results are held or under way. When the consumer leaves early (an exception, Ctrl-C), ``stop``
    is set and running calls are waited for; ``function`` looks at it often.
    """
    stop = Event()
    if threads == 1:
        for item in items:
            yield function(item, stop)
        return
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="nc_fast") as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item, stop))
                if len(pending) > threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            stop.set()
            for future in pending:
                future.cancel()
