"""How many threads a call uses, and running ordered work on them.

The count is the one the process's BLAS is set to, so that OPENBLAS_NUM_THREADS, OMP_NUM_THREADS and
``threadpoolctl.threadpool_limits`` govern nc_fast as they govern ``X @ W``.

Ctrl-C raises KeyboardInterrupt in the calling thread, between any two instructions. All that this thread does here is
therefore either one call into C, which Ctrl-C does not cut short, or may be done again.
"""

from __future__ import annotations

import _thread
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, partial, wraps
from queue import Empty, SimpleQueue
from threading import Lock, get_ident, gettrace
from typing import Any, Generic, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

Item = TypeVar("Item")
Result = TypeVar("Result")
Arguments = ParamSpec("Arguments")

IDLE_S = 0.5  # how soon a waiting caller looks whether the workers are still there
_lock = Lock()  # of what follows
_callers: dict[object, int] = {}  # inside functions that hold BLAS at one thread, and the threads they are on
_found: list[int] = []  # the thread counts that the first of them found


def single_threaded_blas(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Return the function as one that is called while the process's BLAS is held at one thread.

    The last caller out restores what the first one found. No context manager: Ctrl-C at the first instruction of an
    ``__exit__`` would leave BLAS held for good.
    """

    @wraps(function)
    def held(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        caller = object()
        try:
            with _lock:
                if not _callers:
                    _found[:] = _thread_counts()
                _callers[caller] = get_ident()  # before anything is set: from here on _leave sets it right
                _set_thread_counts([1] * len(_found))
            return function(*args, **kwargs)
        finally:
            try:
                _leave(caller)
            finally:  # again, where Ctrl-C cut it short
                _leave(caller)

    return held


def thread_count() -> int:
    """Return how many threads a call uses."""
    with _lock:
        return max(_found if _callers else _thread_counts())


def _leave(caller: object) -> None:
    with _lock:
        if [*_callers] == [caller]:
            _set_thread_counts(_found)
        _callers.pop(caller, None)


def _after_fork() -> None:
    """Have the callers leave that are on threads which the child does not have."""
    _lock.release()
    for caller, thread in list(_callers.items()):
        if thread != get_ident():
            _leave(caller)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_after_fork)


@cache
def _blas_libraries() -> list[Any]:
    import numpy  # noqa: F401  (its BLAS must be loaded to be found)

    return list(ThreadpoolController().select(user_api="blas").lib_controllers)


def _thread_counts() -> list[int]:
    """Return the number of threads of every BLAS; where none can be found, the number of cores."""
    counts = [int(library.num_threads) for library in _blas_libraries()]
    return counts or [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]


def _set_thread_counts(counts: list[int]) -> None:
    for library, threads in zip(_blas_libraries(), counts, strict=False):
        # threadpoolctl 3.8 ignores all threads but the first that set OpenBLAS, while that one lives: a caller beside a user's
        # limit, or last out after another came in first, would set nothing.
        release = getattr(library, "clear_controlling_thread", lambda **_: None)
        release(force=True)
        library.set_num_threads(threads)
        release(force=True)


class Stopped(Exception):  # noqa: N818 (nothing went wrong)
    """Raised inside a worker whose result nobody waits for any more."""


class Stop:
    """Whether anybody still waits. A threading.Event that Ctrl-C cuts short while it is set stays locked."""

    _set = False

    def set(self) -> None:
        self._set = True

    def is_set(self) -> bool:
        return self._set


def ordered_map(function: Callable[[Item, Stop], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``function(item, stop)`` for every item, in order, computed by ``threads`` threads.

    At most ``threads + 2`` results are held or under way: with one call fewer in the queue, a thread would wait while the caller
    uses a result. When the consumer leaves early (an exception, Ctrl-C), ``stop`` is set and running calls are waited for;
    ``function`` looks at it often.
    """
    workers = _Workers()
    try:
        if threads == 1 or not workers.start(threads):
            for item in items:
                yield function(item, workers.stop)
        else:  # a generator of its own: Python 3.12 and 3.13 leave the jump back of a loop that ends in an ``if`` out of the ``try``
            yield from workers.results((partial(function, item, workers.stop) for item in items), most=threads + 2)
    finally:
        try:
            workers.end()
        finally:  # again, where Ctrl-C cut it short
            workers.end()


class _Call(Generic[Result]):
    """A function's call on a worker, and what came of it."""

    result: Result
    error: BaseException | None = None

    def __init__(self, function: Callable[[], Result]) -> None:
        self.done = False
        self._function = function

    def run(self) -> None:
        try:
            self.result = self._function()
        except BaseException as error:
            self.error = error
        self.done = True
        del self  # an error's traceback holds this frame: no cycle that keeps arrays alive


class _Workers:
    """Threads that run calls from a queue. Started by hand: Ctrl-C in ``Thread.start`` leaves one that nobody knows of."""

    def __init__(self) -> None:
        self.stop = Stop()
        self.calls: SimpleQueue[_Call[Any]] = SimpleQueue()
        self._news: SimpleQueue[None] = SimpleQueue()  # that a call is done, or a thread has ended
        self._running: list[None] = []  # an entry for every thread that has begun and not ended
        self._out_of_memory = False

    def start(self, threads: int) -> bool:
        """Start as many as the system has threads for, as fewer do the same work; return whether there are any."""
        for started in range(threads):
            try:
                _thread.start_new_thread(self._run, ())
            except RuntimeError:  # "can't start new thread": memory or the number of threads is limited
                return started > 0
        return True

    def _run(self) -> None:
        self._running.append(None)
        try:
            sys.settrace(gettrace())  # as a Thread does, for debuggers and coverage
            while not self.stop.is_set():
                with suppress(Empty):
                    self.calls.get(timeout=IDLE_S).run()
                    self._news.put(None)
        except MemoryError:  # not of the call, which keeps its own: not even a frame could be had
            self._out_of_memory = True
        finally:
            self._running.pop()
            self._news.put(None)

    def results(self, functions: Iterable[Callable[[], Result]], most: int) -> Iterator[Result]:
        """Have the functions called, that many ahead at most; yield their results in order."""
        pending: deque[_Call[Result]] = deque()
        for function in functions:
            pending.append(_Call(function))
            self.calls.put(pending[-1])
            if len(pending) == most:
                yield self._result(pending.popleft())
        while pending:
            yield self._result(pending.popleft())

    def _result(self, call: _Call[Result]) -> Result:
        while not call.done:
            self._wait()
            if self._out_of_memory:
                raise MemoryError("a worker thread ended for want of memory")
            if not self._running:  # no thread had the memory to begin: the work is done here
                with suppress(Empty):
                    self.calls.get_nowait().run()
        try:
            if call.error is not None:
                raise call.error
            return call.result
        finally:
            del call  # no cycle here either

    def end(self) -> None:
        """Have the threads end, and wait until they have; may be called again."""
        self.stop.set()
        while self._running:
            self.calls.put(_Call(int))  # wakes one
            self._wait()

    def _wait(self) -> None:
        with suppress(Empty):
            self._news.get(timeout=IDLE_S)
